"""Laws and toys that third parties can reuse to test their own parts."""
