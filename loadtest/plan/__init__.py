"""`make bench-plan`: what training really takes at its peak, beside what `loradock plan` says."""
