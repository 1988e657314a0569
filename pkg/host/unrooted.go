package host

// Unrooted returns the host of the files that the caller's arguments name: the same machine without the root. Its acts
// are announced, and refused, like those of h.
func (h *Host) Unrooted() *Host {
	c := *h
	c.root = "/"
	return &c
}
