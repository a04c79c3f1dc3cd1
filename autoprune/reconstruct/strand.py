"""Work that stops in the middle and goes on later: a thread that takes turns with the one that made it."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from contextlib import ExitStack

import torch


class _GivenUp(BaseException):
    """Unwinds a strand; no `Exception`, so that nothing that the work calls takes it for an error of its own."""


class Strand:
    """Work on a thread of its own, that runs only while the thread that made it waits for it.

    What PyTorch keeps per thread (modes, precision, stream, number of threads) is as it was where the strand was made.

    Args:
        work: may call `pause`.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self.is_done = False
        self._work = work
        self._error: BaseException | None = None
        self._is_given_up = False
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        context = contextvars.copy_context()
        surroundings = _Surroundings()
        self._thread = threading.Thread(target=lambda: context.run(self._run, surroundings), daemon=True)
        self._thread.start()

    def resume(self) -> None:
        """Let the work run until it pauses or is done; raises what the work raised."""
        self._go.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error

    def pause(self) -> None:
        """Wait, in the work, for the next `resume`."""
        self._back.release()
        self._go.acquire()
        if self._is_given_up:
            raise _GivenUp

    def give_up(self) -> None:
        """Unwind the work where it has paused; nothing where it is done."""
        self._is_given_up = True
        self._go.release()
        self._thread.join()

    def _run(self, surroundings: _Surroundings) -> None:
        self._go.acquire()
        try:
            if not self._is_given_up:
                with surroundings.entered():
                    self._work()
        except _GivenUp:
            pass
        except BaseException as error:  # noqa: BLE001  raised again by `resume`, on the thread that waits
            self._error = error
        finally:
            self.is_done = True
            self._back.release()


class _Surroundings:
    """The settings that PyTorch keeps per thread, as the calling thread has them."""

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        self._is_inference, self._is_grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        self._device = torch.get_default_device()
        self._precision = [
            (kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)
        ]
        self._stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    def entered(self) -> ExitStack:
        """Return the same surroundings for the thread that asks now, to be left as one."""
        torch.set_num_threads(self._threads)  # the count of OpenMP belongs to a thread
        stack = ExitStack()
        stack.enter_context(torch.inference_mode(self._is_inference))
        stack.enter_context(torch.set_grad_enabled(self._is_grad))
        if self._device.type != "cpu":
            stack.enter_context(self._device)
        for kind, dtype in self._precision:
            stack.enter_context(torch.autocast(kind, dtype))
        if self._stream is not None:
            stack.enter_context(torch.cuda.stream(self._stream))
        return stack
