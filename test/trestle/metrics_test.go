package trestle

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"

	"github.com/trestle-cni/trestle/test/host"
)

// values reads Prometheus' text as its own library does: "name{label=value,…}" to value.
func values(t *testing.T, text string) map[string]float64 {
	t.Helper()
	families, err := new(expfmt.TextParser).TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	all := map[string]float64{}
	for name, family := range families {
		if family.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			all[name+"{"+strings.Join(labels, ",")+"}"] = m.GetGauge().GetValue()
		}
	}
	return all
}

// TestMetrics: pools, attachments, ports, leaks and findings are counted.
func TestMetrics(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.attach("lost", 8081).Remove()
	p.awaitVeths(1)
	awaitDead(t, p.Host)
	p.sh("sysctl -qw net.ipv4.ip_forward=0; mkdir -p /run/textfile")
	before := p.Dump()
	text := must(t, p.Host, "metrics")
	p.AssertUnchanged(before)
	got := values(t, text)
	for name, want := range map[string]float64{
		"trestle_info{version=2.0.0-dev}":                                                    1,
		"trestle_pool_addresses{network=trestle,subnet=10.22.0.0/16,first=10.22.0.1}":        65533,
		"trestle_pool_leased_addresses{network=trestle,subnet=10.22.0.0/16,first=10.22.0.1}": 2,
		"trestle_pool_dead_addresses{network=trestle,subnet=10.22.0.0/16,first=10.22.0.1}":   1,
		"trestle_attachments{network=trestle,state=alive}":                                   1,
		"trestle_attachments{network=trestle,state=dead}":                                    1,
		"trestle_published_ports{network=trestle,protocol=tcp}":                              4,
		"trestle_published_ports{network=trestle,protocol=udp}":                              0,
		"trestle_leaks{kind=lease}":                                                          1,
		"trestle_leaks{kind=record}":                                                         1,
		"trestle_leaks{kind=link}":                                                           0,
		"trestle_findings{check=forwarding}":                                                 1,
		"trestle_findings{check=dead}":                                                       1,
		"trestle_findings{check=mtu}":                                                        0,
		"trestle_problems{}":                                                                 0,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s: got %v, %v, want %v", name, value, ok, want)
		}
	}
	must(t, p.Host, "metrics", "--output", "/run/textfile/trestle.prom")
	if written := values(t, p.MustRun("cat", "/run/textfile/trestle.prom")); len(written) != len(got) {
		t.Errorf("got %d values in the file, want %d", len(written), len(got))
	}
	if files := p.MustRun("ls", "-A", "/run/textfile"); files != "trestle.prom\n" {
		t.Errorf("got files %q", files)
	}
	samples := answer[[]struct{ Name string }](t, p.Host, "metrics")
	if len(samples) != len(got) {
		t.Errorf("got %d samples in JSON, want %d", len(samples), len(got))
	}
	refused(t, p.Host, []string{"--listen", "192.0.2.2:9753", "loopback"}, "metrics", "--listen", "192.0.2.2:9753")
	refused(t, p.Host, []string{"--listen", "loopback"}, "metrics", "--listen", ":9753")
	refused(t, p.Host, []string{"--listen", "--output"}, "metrics", "--listen", "127.0.0.1:9753", "--output", "/run/x")
	refused(t, p.Host, []string{"--output", "/nowhere"}, "metrics", "--output", "/nowhere/x")
}

// TestMetricsListen: it answers on the loopback interface until it is ended.
func TestMetricsListen(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	stop := p.Start(host.Command{
		Args: []string{p.Dirs().Trestle + "/trestle", "metrics", "--listen", "127.0.0.1:9753"},
		Env:  []string{"CNI_PATH=" + p.Dirs().Trestle},
	})
	var text string
	await(t, "it answers", func() bool {
		err := p.Do(func() error {
			conn, err := net.Dial("tcp", "127.0.0.1:9753")
			if err != nil {
				return err
			}
			defer conn.Close()
			if _, err := fmt.Fprintf(conn, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
				return err
			}
			all, err := io.ReadAll(conn)
			text = string(all)
			return err
		})
		return err == nil
	})
	head, body, _ := strings.Cut(text, "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.0 "+fmt.Sprint(http.StatusOK)) || !strings.Contains(head, "text/plain; version=0.0.4") {
		t.Errorf("got %s", head)
	}
	if got := values(t, body); got["trestle_attachments{network=trestle,state=alive}"] != 1 {
		t.Errorf("got %v", got)
	}
	stop()
}
