// Package etcdkeys reads and writes the keys of one cluster in etcd. trestle-node uses it, and
// so do tests and benchmarks, which play hosts that do not exist.
package etcdkeys

import (
	"context"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/trestle-cni/trestle/pkg/cluster"
)

// Keys are the keys below a prefix. The names that Get and Commit take and return are without
// the prefix.
type Keys struct {
	Client *clientv3.Client
	Prefix string
}

// Get reads keys in one transaction, so that all are of one revision. A key that ends in a
// slash stands for all keys below it.
func (k Keys) Get(ctx context.Context, keys ...string) (cluster.View, error) {
	var ops []clientv3.Op
	for _, key := range keys {
		var options []clientv3.OpOption
		if strings.HasSuffix(key, "/") {
			options = append(options, clientv3.WithPrefix())
		}
		ops = append(ops, clientv3.OpGet(k.Prefix+key, options...))
	}
	answer, err := k.Client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return cluster.View{}, err
	}
	view := cluster.View{
		Store: strconv.FormatUint(answer.Header.ClusterId, 16), Revision: answer.Header.Revision,
		Keys: map[string]cluster.Value{},
	}
	for _, r := range answer.Responses {
		for _, kv := range r.GetResponseRange().Kvs {
			view.Keys[strings.TrimPrefix(string(kv.Key), k.Prefix)] = cluster.Value{Data: kv.Value, Revision: kv.ModRevision}
		}
	}
	return view, nil
}

// Commit does the transaction's writes if all of its conditions are true, and says whether it
// did.
func (k Keys) Commit(ctx context.Context, txn cluster.Txn) (bool, error) {
	var conditions []clientv3.Cmp
	for _, c := range txn.If {
		if c.Absent {
			conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(k.Prefix+c.Key), "=", 0))
		} else {
			conditions = append(conditions, clientv3.Compare(clientv3.Value(k.Prefix+c.Key), "=", string(c.Data)))
		}
	}
	var ops []clientv3.Op
	for _, w := range txn.Then {
		if w.Data == nil {
			ops = append(ops, clientv3.OpDelete(k.Prefix+w.Key))
		} else {
			ops = append(ops, clientv3.OpPut(k.Prefix+w.Key, string(w.Data)))
		}
	}
	answer, err := k.Client.Txn(ctx).If(conditions...).Then(ops...).Commit()
	if err != nil {
		return false, err
	}
	return answer.Succeeded, nil
}
