package main

import (
	"testing"
	"time"
)

func TestIPerfTook(t *testing.T) {
	for _, test := range []struct {
		name, report string
		want         time.Duration
		wantError    bool
	}{
		{"TCP", `{"end": {"sum_sent": {"seconds": 3.0}, "sum_received": {"seconds": 2.5}}}`, 2500 * time.Millisecond, false},
		{"UDP of which a half is lost", `{"end": {"sum": {"seconds": 1.5, "packets": 100, "lost_percent": 50}}}`, 3 * time.Second, false},
		{"UDP of which all is lost", `{"end": {"sum": {"seconds": 1.5, "packets": 100, "lost_percent": 100}}}`, 0, true},
		{"busy", `{"end": {}, "error": "the server is busy"}`, 0, true},
		{"nothing", ``, 0, true},
	} {
		got, err := iperfTook([]byte(test.report))
		if got != test.want || (err != nil) != test.wantError {
			t.Errorf("%s: got %v, %v, want %v", test.name, got, err, test.want)
		}
	}
}

// TestWaits: perf's words, shortened.
func TestWaits(t *testing.T) {
	const script = `ip prev_comm=ip prev_state=D ==> next_comm=x
	ffffffff81406303 synchronize_rcu_expedited
	ffffffff81406303 synchronize_net

ip prev_comm=ip prev_state=D ==> next_comm=x
	ffffffff81406cc4 rcu_barrier

ip prev_comm=ip prev_state=R ==> next_comm=x
	ffffffff81406cc4 rcu_barrier

ip prev_comm=ip prev_state=S ==> next_comm=x
	ffffffff81406cc4 do_wait

`
	var got tally
	if got.waits(script); got.periods != 2 || got.expedited != 1 || !got.known {
		t.Errorf("got %+v, want two grace periods, one of them expedited", got)
	}
}
