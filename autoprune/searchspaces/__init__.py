"""Search spaces that ship with autoprune: one TOML file each, and the networks that torchvision lacks."""
