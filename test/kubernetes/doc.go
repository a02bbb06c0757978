//go:build kubernetes

// Package kubernetes runs a real cluster on throw-away hosts: the control plane, kubelets,
// kube-proxies and kubectl of ./kube (a module of its own), Debian's etcd and containerd,
// and the DaemonSet of docs/kubernetes.md. It takes minutes, and longer for the first
// build: make test-kubernetes, and no part of make test.
package kubernetes
