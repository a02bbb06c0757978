package runtimes

import "testing"

// FuzzConfiguration: a runtime's configuration is read, or is an error.
func FuzzConfiguration(f *testing.F) {
	f.Add([]byte("version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = ['/a', '']\nconf_dir = '/b'\n"))
	f.Add([]byte("[crio.network]\ncni_default_network = 'n'\nplugin_dirs = ['/a']\n[network]\nnetwork_backend = 'cni'\n"))
	f.Add([]byte("cni_path = '/a'\ncni_netconfpath = '/b'"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		for _, k := range kinds {
			_ = k.read(data, &Runtime{}) // it must not panic
		}
	})
}
