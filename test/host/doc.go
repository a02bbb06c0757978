// Package host gives each test a throw-away Linux host: mount, network and pid
// namespaces of its own, with a private /etc, /run, /opt and /var/lib, an uplink
// to an outside host, and containers. Everything in it dies with the test, also
// when the test is killed. It needs root, and iproute2.
//
// A package of tests hands its TestMain to the harness,
//
//	func TestMain(m *testing.M) { os.Exit(host.Main(m)) }
//
// and each test makes a Host, which is safe beside parallel ones:
//
//	h := host.New(t)
//	before := h.Dump()
//	c := h.Container("c1")
//	network := h.Network(conflist)
//	if _, err := network.Add(c.Attachment()); err != nil { … }
//	outside := h.Outside.Serve("tcp", ":80")
//	seen, err := c.Request("tcp", "192.0.2.1:80") // the address that outside saw
//	err = network.Del(c.Attachment())
//	h.AssertUnchanged(before)
//
// Host, its containers and Outside are each a Namespace, in which commands and
// Go functions run.
package host
