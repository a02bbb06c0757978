package runtimes

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

// TestInstalled: the versions of installed runtimes are read.
func TestInstalled(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	for name, says := range map[string]string{
		"containerd": "containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6", "podman": "podman version 4.3.1",
		"crio": "crio version 1.33.2\nGitCommit: x", "nerdctl": "what?",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho '"+says+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, r := range Installed(t.Context()) {
		got = append(got, r.Name+" "+r.Version+" reads "+r.Newest)
	}
	want := []string{"containerd 1.7.24~ds1 reads 1.0.0", "crio 1.33.2 reads 1.1.0", "podman 4.3.1 reads 1.0.0"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestConfigure: each runtime's files, in each version of their format.
func TestConfigure(t *testing.T) {
	for _, test := range []struct {
		runtime, file string
		want          Runtime
	}{
		{"containerd", "version = 2\n", Runtime{Plugins: []string{"/opt/cni/bin"}, Lists: []string{"/etc/cni/net.d"}}},
		{
			"containerd", "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\"\n      conf_dir = \"/etc/cni/x\"\n",
			Runtime{Plugins: []string{"/usr/lib/cni"}, Lists: []string{"/etc/cni/x"}},
		},
		{
			"containerd", "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = ['/a', '/b']\n",
			Runtime{Plugins: []string{"/a", "/b"}, Lists: []string{"/etc/cni/net.d"}},
		},
		{
			"crio", "[crio.network]\ncni_default_network = \"trestle\"\nplugin_dirs = [\"/a\"]\nnetwork_dir = \"/n\"\n",
			Runtime{Plugins: []string{"/a"}, Lists: []string{"/n"}, Network: "trestle"},
		},
		{
			"podman", "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"/a\"]\nnetwork_config_dir = \"/etc/containers/cni.d\"\n",
			Runtime{Plugins: []string{"/a"}, Lists: []string{"/etc/containers/cni.d"}, Network: "podman"},
		},
		{"nerdctl", "cni_path = \"/a\"\ncni_netconfpath = \"/n\"\n", Runtime{Plugins: []string{"/a"}, Lists: []string{"/n"}, Network: "bridge"}},
	} {
		k := kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.name == test.runtime })]
		file := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(file, []byte(test.file), 0o644); err != nil {
			t.Fatal(err)
		}
		k.files = []string{file}
		got := Runtime{Plugins: k.plugins, Lists: []string{k.lists}, Network: k.network}
		if err := k.configure(&got); err != nil {
			t.Errorf("%s: %v", test.runtime, err)
		}
		test.want.Files = []string{file}
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s, %s: got %+v, want %+v", test.runtime, test.file, got, test.want)
		}
		if err := os.WriteFile(file, []byte("[x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := k.configure(&got); err == nil {
			t.Errorf("%s: got no error of a truncated file", test.runtime)
		}
	}
}

// TestNetavark: podman with netavark does not use CNI.
func TestNetavark(t *testing.T) {
	var r Runtime
	if err := readPodman([]byte("[network]\nnetwork_backend = \"netavark\"\n"), &r); err != nil || r.Without != "netavark" {
		t.Errorf("got %+v, %v", r, err)
	}
}
