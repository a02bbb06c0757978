package bridge

func (s *Sandbox) announce(Interface) error { return nil }
