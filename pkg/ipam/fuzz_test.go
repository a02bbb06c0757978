package ipam

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/record"
)

// Whatever a configuration says: no panic, and the sets of a valid one are consistent.
func FuzzParseConfig(f *testing.F) {
	for _, seed := range []string{
		`{"ipam":{"ranges":[[{"subnet":"10.1.0.0/24","exclude":["10.1.0.8/29"]}],[{"subnet":"fd00::/64"}]]},"args":{"cni":{"ips":["10.1.0.9"]}}}`,
		`{"ipam":{"subnet":"10.2.0.0/31","gateway":"10.2.0.1","lockTimeout":"1s"},"runtimeConfig":{"ipRanges":[{"subnet":"fd00::/127"}],"ips":["fd00::1/64"]}}`,
		`{"ipam":{"subnet":"0.0.0.0/0","exclude":["0.0.0.0/1","255.255.255.255"]}}`,
		`{"ipam":{"subnet":"::/0","rangeEnd":"ffff::","exclude":["::/1"]}}`,
	} {
		f.Add([]byte(seed), "10.1.0.7")
	}
	f.Fuzz(func(t *testing.T, config []byte, ip string) {
		c, err := ParseConfig(&cni.Request{Version: "1.1.0", Stdin: config, Args: map[string]string{"IP": ip}})
		if err != nil {
			if code := cni.CodeOf(err); code != cni.CodeConfig && code != cni.CodeDecode {
				t.Errorf("code %d: %v", code, err)
			}
			return
		}
		empty := func(netip.Addr) (*block, error) { return newBlock(), nil }
		for i, set := range c.Sets {
			checkSet(t, set, empty)
			if a := c.Requested[i]; a.IsValid() {
				if r, ok := set.rangeOf(a); !ok || !r.Leasable(a) {
					t.Errorf("requested %s is not leasable in %s", a, set)
				}
			}
		}
	})
}

func checkSet(t *testing.T, set Set, empty used) {
	for _, r := range set {
		if !r.Subnet.Contains(r.First) || !r.Subnet.Contains(r.Last) || r.Last.Less(r.First) {
			t.Errorf("%s is not in %s", r, r.Subnet)
		}
		if r.Gateway.IsValid() && r.Leasable(r.Gateway) {
			t.Errorf("%s leases its gateway %s", r, r.Gateway)
		}
		for i, s := range r.barred {
			if s.last.Less(s.first) || !r.Contains(s.first) || !r.Contains(s.last) || i > 0 && !r.barred[i-1].last.Less(s.first) {
				t.Errorf("%s: barred %v", r, r.barred)
			}
		}
		a, ok, err := r.next(r.First, r.Last, empty)
		if err != nil || ok != (r.Size() > 0) || ok && !r.Leasable(a) {
			t.Errorf("%s of size %d: next is %s, %v, %v", r, r.Size(), a, ok, err)
		}
	}
}

// Whatever is in an address's file: if it is read as a lease, writing that lease and reading
// it again gives the same.
func FuzzParseLease(f *testing.F) {
	for _, seed := range []string{"c1\r\neth0", "c1", "", "\x00", "a\r\nb\r\nc", " c1\r\neth0 \n"} {
		f.Add("10.1.0.2", []byte(seed))
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		if a, ok := parseLeaseName(name); ok && a.String() != name {
			t.Errorf("%q is read as %s", name, a)
		}
		o, kind := parseLease("net", data)
		if kind != leaseHeld {
			return
		}
		if again, kind := parseLease("net", leaseContent(o)); kind != leaseHeld || again != o {
			t.Errorf("%q: got %v, then %v", data, o, again)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	o := cni.Owner{Network: "net", ContainerID: "c1", IfName: "eth0"}
	whole := ownerRecord{ContainerID: "c1", IfName: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.2")}, Stamp: record.Stamp{Boot: "b"}}.encode()
	f.Add(whole)
	f.Add(whole[:20])
	f.Add([]byte(`{"addresses":[null,""],"time":"x"}`))
	f.Add([]byte(`{"containerID":"c1","ifname":"eth0","addresses":["fe80::1%/../../x"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, ok := decodeRecord("net", recordName(o), data, cni.UnmarshalOnce)
		if !ok {
			return
		}
		for _, a := range r.Addresses {
			if _, ok := parseLeaseName(a.String()); !ok {
				t.Errorf("%q names the address %q", data, a)
			}
		}
		again, ok := decodeRecord("net", recordName(o), r.encode(), cni.UnmarshalOnce)
		if r.owner("net") != o || !ok || !again.equal(r) {
			t.Errorf("%q: got %+v, then %+v", data, r, again)
		}
	})
}

func FuzzDecodeBlock(f *testing.F) {
	b := newBlock()
	b.set(3)
	f.Add(b.encode())
	f.Add([]byte("blk1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, ok := decodeBlock(data)
		if !ok {
			return
		}
		if !bytes.Equal(b.encode(), data) {
			t.Error("a block is written otherwise than it was read")
		}
		if bit, ok := b.nextFree(0); ok && b.has(bit) || ok == (b.count == blockBits) {
			t.Errorf("next free of %d set: got %d, %v", b.count, bit, ok)
		}
	})
}

// FuzzResolvConf: whatever is in the file, all name servers that are read are in it.
func FuzzResolvConf(f *testing.F) {
	f.Add("# a comment\nnameserver 10.0.0.1\nsearch a b\ndomain c\noptions ndots:5\n")
	f.Add("nameserver\n nameserver fe80::1%eth0 \nsearch\x00\noptions")
	f.Fuzz(func(t *testing.T, text string) {
		for _, server := range parseResolvConf(text).Nameservers {
			if server == "" || !strings.Contains(text, server) {
				t.Errorf("%q names the server %q", text, server)
			}
		}
	})
}
