package bandwidth

import (
	"errors"
	"fmt"
	"math"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// bucket is a token bucket with the kernel's parameters (tc-tbf(8)).
type bucket struct {
	rate   uint64 // bytes a second
	buffer uint32 // the time in which the rate empties a full bucket, in ticks
	limit  uint32 // bytes that may be queued
}

// latency is how long a packet may wait for tokens, in microseconds, as with the reference
// plugin.
const latency = 25000

// frameHeader is the length of the header of an Ethernet frame, which the MTU does not
// include.
const frameHeader = 14

// newBucket computes a bucket like the reference plugin, but fixes two of its faults: numbers
// that are too large become the largest one rather than wrap around (containerd asks for a
// burst of 2^32-1 at whatever rate), and the bucket has room for a full frame, without which
// no such frame would ever pass.
func newBucket(l limit, mtu int, ticksInMicrosecond float64) bucket {
	const second = netlink.TIME_UNITS_PER_SEC
	rate, burst := l.Rate/8, l.Burst/8
	frame := float64(mtu + frameHeader)
	lasts := saturate(float64(burst) * second / float64(rate))
	ticks := saturate(float64(lasts) * ticksInMicrosecond)
	frameTicks := saturate(math.Ceil(frame*second/float64(rate)*ticksInMicrosecond) + 1) // 1, since the kernel rounds down
	waiting := float64(rate)*latency/second + max(float64(burst), frame)
	return bucket{rate, max(ticks, frameTicks), saturate(waiting)}
}

// saturate converts to 32 bits; larger numbers become the largest one.
func saturate(f float64) uint32 {
	if f >= math.MaxUint32 {
		return math.MaxUint32
	}
	return uint32(f)
}

func (b bucket) String() string {
	return fmt.Sprintf("rate %d bytes/s, buffer %d, limit %d bytes", b.rate, b.buffer, b.limit)
}

// put makes the bucket the link's root qdisc.
func (b bucket) put(h *netlink.Handle, link netlink.Link) error {
	err := h.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       b.rate, Buffer: b.buffer, Limit: b.limit,
	})
	if err != nil {
		return fmt.Errorf("limit %s to %s: %w", link.Attrs().Name, b, explain(err))
	}
	return nil
}

// explain adds what the kernel means by ENOENT: that it does not have the kind of qdisc or
// filter (qdisc_create, net/sched/sch_api.c).
func explain(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("the kernel lacks it (modules sch_tbf, sch_ingress, cls_u32, act_mirred, ifb): %w", err)
	}
	return err
}

// findBucket is the link's root qdisc if that is a token bucket; else the zero value. It asks
// for this qdisc alone, since a dump lists those of all links; the kernel answers by an echo
// of its notification (tc_get_qdisc, net/sched/sch_api.c).
func findBucket(link netlink.Link) (bucket, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETQDISC, unix.NLM_F_ACK|unix.NLM_F_ECHO)
	req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(link.Attrs().Index), Parent: netlink.HANDLE_ROOT})
	replies, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWQDISC)
	if errors.Is(err, unix.ENOENT) {
		return bucket{}, nil
	}
	if err != nil {
		return bucket{}, fmt.Errorf("look at the queue of %s: %w", link.Attrs().Name, err)
	}
	if len(replies) == 0 {
		return bucket{}, nil
	}
	b, err := parseBucket(replies[0])
	if err != nil {
		return bucket{}, fmt.Errorf("read the queue of %s: %w", link.Attrs().Name, err)
	}
	return b, nil
}

func parseBucket(reply []byte) (bucket, error) {
	attrs, err := nl.ParseRouteAttr(reply[nl.SizeofTcMsg:])
	if err != nil {
		return bucket{}, err
	}
	var kind string
	var options []byte
	for _, a := range attrs {
		switch a.Attr.Type {
		case nl.TCA_KIND:
			kind = nl.BytesToString(a.Value)
		case nl.TCA_OPTIONS:
			options = a.Value
		}
	}
	if kind != "tbf" { // the options of another kind are numbered differently
		return bucket{}, nil
	}
	return parseOptions(options)
}

func parseOptions(data []byte) (bucket, error) {
	attrs, err := nl.ParseRouteAttr(data)
	if err != nil {
		return bucket{}, err
	}
	var b bucket
	for _, a := range attrs {
		switch a.Attr.Type {
		case nl.TCA_TBF_PARMS:
			options := nl.DeserializeTcTbfQopt(a.Value)
			b.buffer, b.limit = options.Buffer, options.Limit
			b.rate = max(b.rate, uint64(options.Rate.Rate))
		case nl.TCA_TBF_RATE64: // for rates larger than 32 bits
			b.rate = max(b.rate, nl.NativeEndian().Uint64(a.Value))
		}
	}
	return b, nil
}
