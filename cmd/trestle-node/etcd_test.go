package main

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

// etcdMember is a member of etcd that answers every transaction, or none.
type etcdMember struct {
	pb.UnimplementedKVServer
	silent bool
	fault  error // the answer to the first requests
	asked  atomic.Int64
}

func (m *etcdMember) Txn(ctx context.Context, _ *pb.TxnRequest) (*pb.TxnResponse, error) {
	if m.asked.Add(1) < 3 && m.fault != nil {
		return nil, m.fault
	}
	if m.silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &pb.TxnResponse{Header: &pb.ResponseHeader{ClusterId: 1, Revision: 7}, Succeeded: true}, nil
}

// serve returns the member's URL.
func (m *etcdMember) serve(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterKVServer(server, m)
	go func() { _ = server.Serve(listener) }() // until it is stopped
	t.Cleanup(server.Stop)
	return "http://" + listener.Addr().String()
}

func openMembers(t *testing.T, timeout time.Duration, members ...*etcdMember) *etcdStore {
	t.Helper()
	s := settings{Etcd: &etcdSettings{}, Cluster: "default", Timeout: duration{timeout}, again: true}
	for _, m := range members {
		s.Etcd.Endpoints = append(s.Etcd.Endpoints, m.serve(t))
	}
	st, err := openEtcd(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() }) // nothing is under way
	return st
}

// TestSilentMember: a member that accepts requests and does not answer, as one that lost them while
// a leader was elected, does not make a read fail: the next try asks another member.
func TestSilentMember(t *testing.T) {
	t.Parallel()
	silent, well := &etcdMember{silent: true}, &etcdMember{}
	st := openMembers(t, 16*time.Second, silent, well)
	// there is no connection to the silent member at first
	for deadline := time.Now().Add(30 * time.Second); silent.asked.Load() == 0 && time.Now().Before(deadline); {
		if view, err := st.Get(t.Context(), cluster.KeyConfig); err != nil || view.Revision != 7 {
			t.Fatalf("got %+v, %v, want the other's answer", view, err)
		}
	}
	// twice if the first connection was to it
	if got := silent.asked.Load(); got < 1 || got > 2 {
		t.Errorf("the silent member was asked %d times, want once or twice", got)
	}
}

// TestUnansweredCommit: a transaction without an answer is ErrUnsure, and is sent once.
func TestUnansweredCommit(t *testing.T) {
	t.Parallel()
	silent := &etcdMember{silent: true}
	st := openMembers(t, 8*time.Second, silent)
	_, err := st.Commit(t.Context(), cluster.Txn{Then: []cluster.Write{{Key: "a", Data: []byte("b")}}})
	if !errors.Is(err, cluster.ErrUnsure) || silent.asked.Load() != 1 {
		t.Errorf("got %v after %d questions, want %v after one", err, silent.asked.Load(), cluster.ErrUnsure)
	}
	if _, err := st.Get(t.Context(), cluster.KeyConfig); err == nil || !isSilence(err) || silent.asked.Load() > 6 {
		t.Errorf("got %v after %d questions, want no answer after a few", err, silent.asked.Load())
	}
}

// TestErrorsThatPass: a read is repeated after errors of an election or a deadline, and not after
// a refusal.
func TestErrorsThatPass(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		fault error
		asked int64
	}{
		{rpctypes.ErrGRPCLeaderChanged, 3},
		{rpctypes.ErrGRPCTimeoutDueToLeaderFail, 3},
		{rpctypes.ErrGRPCNoLeader, 3},
		{grpcstatus.Error(codes.Unknown, "context deadline exceeded"), 3}, // etcd 3.4
		{rpctypes.ErrGRPCPermissionDenied, 1},
		{rpctypes.ErrGRPCAuthFailed, 1},
	} {
		m := &etcdMember{fault: test.fault}
		st := openMembers(t, 16*time.Second, m)
		if _, err := st.Get(t.Context(), cluster.KeyConfig); (err == nil) != (test.asked > 1) || m.asked.Load() != test.asked {
			t.Errorf("%v: got %v after %d questions, want %d", test.fault, err, m.asked.Load(), test.asked)
		}
	}
}
