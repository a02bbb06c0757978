package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/trestle-cni/trestle/cmd/trestle-node/etcdkeys"
	"github.com/trestle-cni/trestle/pkg/cluster"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// etcdStore keeps the keys of one cluster under /trestle/v1/<cluster>/.
type etcdStore struct {
	etcdkeys.Keys
	settings *etcdSettings
	timeout  time.Duration
	alive    time.Duration
	about    string
	// again says that the caller of Commit reads and commits again if no answer comes.
	again bool
}

// A silent connection is pinged every keepAlive and closed after keepAliveTimeout: nothing
// else shows that packets are dropped on the way. One to etcd is pinged every leastPing:
// gRPC takes that for any shorter time (internal.KeepaliveMinPingTime). Connecting is tried
// again after reconnectMost at the latest; gRPC's own backoff grows to two minutes.
const (
	keepAlive        = 5 * time.Second
	leastPing        = 10 * time.Second
	keepAliveTimeout = 3 * time.Second
	reconnectMost    = 3 * time.Second
)

// openEtcd makes a client with the certificates and password on disk. It does not connect yet.
func openEtcd(s settings) (*etcdStore, error) {
	e := s.Etcd
	config := clientv3.Config{
		Endpoints: e.Endpoints, DialKeepAliveTime: leastPing, DialKeepAliveTimeout: keepAliveTimeout, PermitWithoutStream: true,
		Logger: zap.NewNop(), // what it would say every call says, too
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMost},
			MinConnectTimeout: reconnectMost,
		})},
	}
	var err error
	if strings.HasPrefix(e.Endpoints[0], "https://") {
		if config.TLS, err = e.tls(); err != nil {
			return nil, input(err)
		}
	}
	if e.User != "" {
		config.Username = e.User
		if config.Password, err = readPassword(e.PasswordFile); err != nil {
			return nil, input(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.Timeout.Duration)
	defer cancel()
	about := "etcd at " + strings.Join(e.Endpoints, ", ")
	config.Context, config.DialTimeout = context.Background(), s.Timeout.Duration
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", about, e.explain(ctx, err))
	}
	keys := etcdkeys.Keys{Client: client, Prefix: "/trestle/v1/" + s.Cluster + "/"}
	return &etcdStore{keys, e, s.Timeout.Duration, s.Alive.Duration, about, s.again}, nil
}

// tls is the client's TLS configuration. It never accepts a server that cannot be verified.
func (e *etcdSettings) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if e.CA != "" {
		data, err := os.ReadFile(e.CA) // named by a person, who may name a pipe
		if err != nil {
			return nil, fmt.Errorf("etcd.ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("etcd.ca: %s has no PEM certificate", e.CA)
		}
	}
	if e.Cert == "" {
		return config, nil
	}
	if _, err := e.keyPair(); err != nil {
		return nil, fmt.Errorf("etcd.cert and etcd.key: %w", err)
	}
	// It is read at each handshake, so that a new certificate needs no restart.
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := e.keyPair()
		return &pair, err
	}
	return config, nil
}

// keyPair reads this host's certificate.
func (e *etcdSettings) keyPair() (tls.Certificate, error) {
	cert, err := rawfile.Read(e.Cert)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := rawfile.Read(e.Key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// readPassword refuses a file that others can read.
func readPassword(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("etcd.passwordFile: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("etcd.passwordFile: %s can be read by others (mode %04o); chmod 600 it", path, info.Mode().Perm())
	}
	data, err := os.ReadFile(path) // named by a person, who may name a pipe
	if err != nil {
		return "", fmt.Errorf("etcd.passwordFile: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// explain adds to an error of etcd which user it is about, and the way out.
func (e *etcdSettings) explain(ctx context.Context, err error) error {
	who := "nobody (no etcd.user)"
	if e.User != "" {
		who = "user " + e.User
	}
	switch {
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return fmt.Errorf("%s may not do that: %w; grant the role (docs/hosts.md)", who, err)
	case errors.Is(err, rpctypes.ErrAuthFailed), errors.Is(err, rpctypes.ErrUserEmpty), errors.Is(err, rpctypes.ErrInvalidAuthToken):
		return fmt.Errorf("%s is not let in: %w; see etcd.user and etcd.passwordFile", who, err)
	case ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded):
		if why := e.whyNot(); why != nil {
			return fmt.Errorf("%w: %w", why, err)
		}
		return fmt.Errorf("no answer in time: %w", err)
	}
	return err
}

func (s *etcdStore) Close() error     { return s.Client.Close() }
func (s *etcdStore) Describe() string { return s.about }

func (s *etcdStore) failed(ctx context.Context, what string, err error) error {
	return fmt.Errorf("%s: %s: %w", s.about, what, s.settings.explain(ctx, err))
}

// whyNot connects once more without gRPC, to all endpoints at once, to find out why there is
// no connection: gRPC's error only says that the deadline has passed.
func (e *etcdSettings) whyNot() error {
	all := make([]error, len(e.Endpoints))
	var asked sync.WaitGroup
	for i, endpoint := range e.Endpoints {
		asked.Go(func() { all[i] = e.whyNotAt(endpoint) })
	}
	asked.Wait()
	return errors.Join(all...)
}

func (e *etcdSettings) whyNotAt(endpoint string) error {
	const patience = time.Second
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", u.Host, patience)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing was written
	if u.Scheme != "https" {
		return nil
	}
	return e.handshake(conn, u.Hostname(), patience)
}

func (e *etcdSettings) handshake(conn net.Conn, name string, patience time.Duration) error {
	config, err := e.tls()
	if err != nil {
		return err
	}
	config.ServerName = name
	secure := tls.Client(conn, config)
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := secure.Handshake(); err != nil {
		return err
	}
	// With TLS 1.3 the server rejects our certificate after the handshake.
	_, err = secure.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // no alert: the certificate is accepted
	}
	return err
}

// retryPause is the pause between the tries of a read.
const retryPause = 100 * time.Millisecond

// codeOf is the gRPC code of an error, or OK if it has none. grpcstatus alone does not find
// the code of etcd's own errors.
func codeOf(err error) codes.Code {
	var own rpctypes.EtcdError
	if errors.As(err, &own) {
		return own.Code()
	}
	if status, ok := grpcstatus.FromError(err); ok {
		return status.Code()
	}
	return codes.OK
}

// passes says whether the error is temporary, as during an election. Only a read can be
// tried again: a write may have been done.
func passes(err error) bool { return codeOf(err) == codes.Unavailable }

// isSilence says whether the error means that no answer came in time. If the member notices
// the deadline before this host does, it answers with an error without a code (Unknown).
func isSilence(err error) bool {
	code := codeOf(err)
	return errors.Is(err, context.DeadlineExceeded) || code == codes.DeadlineExceeded || code == codes.Unknown
}

// Get tries again after temporary errors, and if a member does not answer: one that lost
// requests while a leader was elected is silent for seconds, and the next request goes to
// another member. After silence a try has twice the time of the one before, so that an etcd
// which is slow as a whole can answer as well.
func (s *etcdStore) Get(ctx context.Context, keys ...string) (cluster.View, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	patience := s.timeout / 8
	view, err := s.try(ctx, patience, keys)
	for err != nil && ctx.Err() == nil && (isSilence(err) || passes(err)) {
		if isSilence(err) {
			patience *= 2
		}
		pause(ctx, retryPause)
		view, err = s.try(ctx, patience, keys)
	}
	if err != nil {
		return cluster.View{}, s.failed(ctx, "read "+strings.Join(keys, ", "), err)
	}
	return view, nil
}

func (s *etcdStore) try(ctx context.Context, patience time.Duration, keys []string) (cluster.View, error) {
	ctx, enough := giveUp(ctx, patience)
	defer enough()
	view, err := s.Keys.Get(ctx, keys...)
	return view, silence(ctx, err)
}

// giveUp cancels ctx after a time. It sets no deadline, since gRPC tells the server of that:
// a silent member would answer with an error at the deadline, the client would send the
// request to the next member with no time left, and the next try would go to the silent
// member again.
func giveUp(ctx context.Context, after time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(after, func() { cancel(context.DeadlineExceeded) })
	return ctx, func() {
		timer.Stop()
		cancel(nil)
	}
}

// silence turns the error of a call that giveUp has canceled into context.DeadlineExceeded.
func silence(ctx context.Context, err error) error {
	if why := context.Cause(ctx); err != nil && errors.Is(why, context.DeadlineExceeded) {
		return why
	}
	return err
}

// Commit is not tried again: a transaction that seems to have failed may have been done. If
// the caller reads and commits again by itself (again), Commit waits a quarter of the timeout
// and then returns cluster.ErrUnsure: a member may have forwarded the transaction to a leader
// that is dead.
func (s *etcdStore) Commit(ctx context.Context, txn cluster.Txn) (bool, error) {
	patience := s.timeout
	if s.again {
		patience /= 4
	}
	short, enough := giveUp(ctx, patience)
	defer enough()
	done, err := s.Keys.Commit(short, txn)
	err = silence(short, err)
	if err == nil {
		return done, nil
	}
	var keys []string
	for _, w := range txn.Then {
		keys = append(keys, w.Key)
	}
	what := "write " + strings.Join(keys, ", ")
	if s.again && ctx.Err() == nil && (isSilence(err) || passes(err)) {
		return false, fmt.Errorf("%s: %s: %w: %w", s.about, what, cluster.ErrUnsure, err)
	}
	return false, s.failed(short, what, err)
}

// Watch requires a member that has a leader: one that is cut off from the others would be
// silent.
func (s *etcdStore) Watch(ctx context.Context, prefix string, after int64, changed func([]cluster.Change)) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for answer := range s.Client.Watch(ctx, s.Prefix+prefix, clientv3.WithPrefix(), clientv3.WithRev(after+1)) {
		if err := answer.Err(); err != nil {
			return s.failed(ctx, "watch "+prefix, err)
		}
		var changes []cluster.Change
		for _, event := range answer.Events {
			c := cluster.Change{
				Key:   strings.TrimPrefix(string(event.Kv.Key), s.Prefix),
				Value: cluster.Value{Revision: event.Kv.ModRevision},
			}
			if event.Type != clientv3.EventTypeDelete {
				c.Data = append([]byte{}, event.Kv.Value...)
			}
			changes = append(changes, c)
		}
		if len(changes) > 0 {
			changed(changes)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.failed(ctx, "watch "+prefix, errors.New("the watch ended"))
}

// Announce writes the key under a lease, and keeps that alive until ctx ends.
func (s *etcdStore) Announce(ctx context.Context, key string, value []byte, given func()) error {
	grant, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	lease, err := s.Client.Grant(grant, int64(max(s.alive/time.Second, 1)))
	if err != nil {
		return s.unannounced(grant, "grant a lease", err)
	}
	if _, err := s.Client.Put(grant, s.Prefix+key, string(value), clientv3.WithLease(lease.ID)); err != nil {
		return s.unannounced(grant, "write "+key, err)
	}
	given()
	answers, err := s.Client.KeepAlive(ctx, lease.ID)
	if err != nil {
		return s.failed(ctx, "keep a lease", err)
	}
	for range answers { // they have to be read; each only says that the lease is alive
	}
	if ctx.Err() != nil {
		revoke, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, _ = s.Client.Revoke(revoke, lease.ID) // it ends by itself
		return ctx.Err()
	}
	return s.failed(ctx, "keep a lease", errors.New("it ended"))
}

// unannounced is failed, and errNoSign where etcd takes no writes for lack of space, or none of
// this key from this user: it answers, and what it has can be followed.
func (s *etcdStore) unannounced(ctx context.Context, what string, err error) error {
	failed := s.failed(ctx, what, err)
	if code := codeOf(err); code == codes.ResourceExhausted || code == codes.PermissionDenied {
		return fmt.Errorf("%w: %w", errNoSign, failed)
	}
	return failed
}

// isMissing says whether an error means that a file does not exist.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
