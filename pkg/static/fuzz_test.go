package static

import (
	"testing"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// FuzzParseConfig: an invalid configuration gets one of the spec's codes for that; a valid one
// gives a result that CHECK accepts.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"ipam":{"addresses":[{"address":"10.1.0.5/24","gateway":"10.1.0.1"}],"routes":[{"dst":"0.0.0.0/0"}]},"args":{"cni":{"ips":["10.1.0.6/24"]}}}`), "10.1.0.7/24", "10.1.0.1")
	f.Add([]byte(`{"ipam":{"addresses":[{"address":"fd00::5/64","Address":{"IP":"fd00::5","Mask":"/////w=="}}]},"runtimeConfig":{"ips":["fd00::1/64"]}}`), "", "")
	f.Fuzz(func(t *testing.T, config []byte, ip, gateway string) {
		c, err := ParseConfig(&cni.Request{Command: cni.Add, Version: "1.1.0", Stdin: config, Args: map[string]string{"IP": ip, "GATEWAY": gateway}})
		if err != nil {
			if code := cni.CodeOf(err); code != cni.CodeConfig && code != cni.CodeDecode && code != cni.CodeEnvironment {
				t.Errorf("code %d: %v", code, err)
			}
			return
		}
		if diffs := c.Diff(c.Result()); len(diffs) > 0 {
			t.Errorf("%s: CHECK finds that ADD's own result differs: %v", config, diffs)
		}
	})
}
