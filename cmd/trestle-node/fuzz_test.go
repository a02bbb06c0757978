package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/hosts"
)

// FuzzSettings: accepted settings can be written and read again.
func FuzzSettings(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"name":"a","cluster":"c","interface":"eth0","address":"192.0.2.1","etcd":{"endpoints":["https://192.0.2.1:2379"],"ca":"/ca","cert":"/c","key":"/k","user":"u","passwordFile":"/p"},"heartbeat":"30s","quarantine":"24h"}`))
	f.Add([]byte(`{"File":"/x","etcd":null,"address":"fe80::1%eth0"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseSettings(data)
		if err != nil {
			return
		}
		written, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseSettings(written); err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("written as %s they are read as %+v, %v", written, again, err)
		}
	})
}

// FuzzFile: in an accepted list of hosts every host can be read, and no two have the same subnet.
func FuzzFile(f *testing.F) {
	f.Add([]byte(`{"networks":[{"name":"pods","ipv4":{"pool":"10.40.0.0/16","subnetLen":24}}],"backend":"auto","nodes":[
		{"name":"a","underlay":["192.0.2.1/24"],"subnets":{"pods":["10.40.0.0/24"]}},{"name":"b","underlay":["192.0.2.2/24"],"mtu":1400,"subnets":{"pods":["10.40.1.0/24"]}}]}`))
	f.Add([]byte(`{"Networks":[{"name":"pods","ipv6":{"pool":"fd40::/48","subnetLen":64}}],"nodes":[{"name":"a","underlay":[""],"subnets":{"pods":[""]}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "cluster.json")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		document, err := parseFile(data)
		view, getErr := openFile(path).Get(context.Background())
		if (err == nil) != (getErr == nil) {
			t.Fatalf("got %v, and of the same file %v", err, getErr)
		}
		if err != nil {
			return
		}
		listing := cluster.NewListing(view)
		if len(listing.Nodes) != len(document.Nodes) || len(listing.Unreadable) > 0 {
			t.Errorf("got %d of %d nodes: %v", len(listing.Nodes), len(document.Nodes), listing.Unreadable)
		}
		owned := 0
		for _, n := range document.Nodes {
			owned += len(n.owned())
		}
		if taken := cluster.Claims(view); len(taken) != owned {
			t.Errorf("got claims %v, want %d", taken, owned)
		}
		if _, err := cluster.ParseConfig(view.Keys[cluster.KeyConfig].Data); err != nil {
			t.Errorf("the configuration that hosts are given: %v", err)
		}
	})
}

// FuzzStatus: any status.json can be printed, or is refused.
func FuzzStatus(f *testing.F) {
	f.Add([]byte(`{"id":"a","name":"n","state":"ready","store":{"name":"etcd","connected":true,"since":"2001-02-03T04:05:06Z"},"subnets":[{"network":"n","subnet":"10.0.0.0/24"}],"lost":[{}],
		"restart":[{"network":"n","address":"10.0.0.2","container":"c"}],"peers":[{"name":"b","underlay":["192.0.2.1/24"],"subnets":[{}],"way":"vxlan","missing":true}],"problems":["x"],"pid":1}`))
	f.Fuzz(func(_ *testing.T, data []byte) {
		var s hosts.Status
		if json.Unmarshal(data, &s) != nil {
			return
		}
		printStatus(io.Discard, s)
		for _, p := range s.Peers {
			probesOf(s, p)
		}
	})
}

// FuzzLists: any file may be in the directory of network lists.
func FuzzLists(f *testing.F) {
	f.Add([]byte(`{"name":"n","plugins":[{"ipam":{"ranges":[[{"subnet":"10.0.0.0/24"}]],"subnet":"fd00::1/64"}}],"io.trestle.node":"a"}`))
	f.Fuzz(func(_ *testing.T, data []byte) {
		var list any
		if json.Unmarshal(data, &list) == nil {
			subnetsIn(list)
		}
		isOurs(data)
	})
}
