package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/connrotation"
)

// nodeClient is a client for Nodes alone. It is client-go's REST client with the types of one
// API group: the typed clients of all groups would add 20 MB.
type nodeClient struct {
	rest   *rest.RESTClient
	dialer *connrotation.Dialer
	url    string
	who    string // the credentials' origin, for people
}

// newNodeClient reads the kubeconfig or, without one, a pod's service account. It does not
// connect yet.
func newNodeClient(kubeconfig string, timeout time.Duration) (*nodeClient, error) {
	config, err := restConfig(kubeconfig)
	if err != nil {
		return nil, input(err)
	}
	c := &nodeClient{url: config.Host, who: "kubeconfig " + kubeconfig, dialer: newDialer(timeout)}
	if kubeconfig == "" {
		c.who = "the pod's service account"
	}
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	config.APIPath, config.GroupVersion = "/api", &corev1.SchemeGroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType = runtime.ContentTypeProtobuf // a third of JSON's size, with a thousand nodes
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.UserAgent = "trestle-node/" + release
	config.QPS = -1 // no limit: there are a few calls in a minute
	config.WarningHandler = rest.NoWarnings{}
	config.Dial = c.dialer.DialContext
	if c.rest, err = rest.RESTClientFor(config); err != nil {
		return nil, fmt.Errorf("%s: %w", c.who, err)
	}
	return c, nil
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			err = fmt.Errorf("kubernetes.kubeconfig is not set, and this is not a pod with a service account: %w; "+
				"name a kubeconfig, or set automountServiceAccountToken and KUBERNETES_SERVICE_HOST", err)
		}
		return config, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubernetes.kubeconfig %s: %w", kubeconfig, err)
	}
	return config, nil
}

// newDialer makes connections that break within seconds if the server does not answer any
// more, whether they are idle (keepalive) or have sent something (TCP_USER_TIMEOUT).
func newDialer(timeout time.Duration) *connrotation.Dialer {
	const probes = 3
	dialer := &net.Dialer{
		Timeout:         timeout / 2, // so that the error is the dialer's, and not that of the call's deadline
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAliveTimeout / probes, Count: probes},
		Control: func(_, _ string, conn syscall.RawConn) (err error) {
			unacknowledged := int((keepAlive + keepAliveTimeout) / time.Millisecond)
			controlErr := conn.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, unacknowledged)
			})
			return errors.Join(err, controlErr)
		},
	}
	return connrotation.NewDialer(dialer.DialContext)
}

// close closes all connections, those with pending requests as well.
func (c *nodeClient) close() { c.dialer.CloseAll() }

// pageSize bounds the memory that an answer takes: a Node is some 10 KB.
const pageSize = 250

// list returns the Node with a name, or all where name is "", and the list's resource version.
func (c *nodeClient) list(ctx context.Context, name string) ([]corev1.Node, string, error) {
	options := metav1.ListOptions{Limit: pageSize}
	if name != "" {
		options.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	}
	var all []corev1.Node
	for {
		var page corev1.NodeList
		err := c.rest.Get().Resource("nodes").VersionedParams(&options, metav1.ParameterCodec).Do(ctx).Into(&page)
		if err != nil {
			return nil, "", err
		}
		for i := range page.Items {
			all = append(all, lean(page.Items[i]))
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return all, page.ResourceVersion, nil
		}
	}
}

// lean is the Node without what is large and not needed, above all its images.
func lean(n corev1.Node) corev1.Node {
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, Annotations: n.Annotations},
		Spec:       corev1.NodeSpec{PodCIDRs: n.Spec.PodCIDRs},
		Status:     corev1.NodeStatus{Conditions: n.Status.Conditions},
	}
}

func (c *nodeClient) watch(ctx context.Context, version string) (watch.Interface, error) {
	options := metav1.ListOptions{Watch: true, ResourceVersion: version, AllowWatchBookmarks: true}
	return c.rest.Get().Resource("nodes").VersionedParams(&options, metav1.ParameterCodec).Watch(ctx)
}

// annotate writes our annotation of a Node, if its UID is still this one.
func (c *nodeClient) annotate(ctx context.Context, name string, uid types.UID, value string) error {
	meta := map[string]any{"annotations": map[string]string{nodeAnnotation: value}}
	if uid != "" {
		meta["uid"] = uid
	}
	patch, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return err
	}
	options := metav1.PatchOptions{FieldManager: "trestle-node"}
	return c.rest.Patch(types.MergePatchType).Resource("nodes").Name(name).VersionedParams(&options, metav1.ParameterCodec).Body(patch).Do(ctx).Error()
}

// explain adds to an error of the API, or of the connection, what it means and the way out.
func (c *nodeClient) explain(err error) error {
	var network *net.OpError
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w; give it a ClusterRole with the rule {apiGroups: [\"\"], resources: [nodes], verbs: [get, list, watch, patch]} (docs/kubernetes.md)", err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the API does not know %s: %w; its token or certificate is another cluster's, or has expired", c.who, err)
	case isBadCertificate(err):
		return fmt.Errorf("%w; %s has another certificate authority than the API server, or a name that its certificate does not have", err, c.who)
	case errors.As(err, &network), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the API does not answer: %w; is it up, and can this host reach it (for a Service's address: kube-proxy)", err)
	}
	return err
}

// isBadCertificate says whether one side refuses the other's certificate.
func isBadCertificate(err error) bool {
	var verification *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var alert tls.AlertError
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &name) || errors.As(err, &alert)
}
