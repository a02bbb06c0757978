//go:build kubernetes

package kubernetes

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// pki is a certificate authority in a directory, with what it has signed.
type pki struct {
	dir string
	key *ecdsa.PrivateKey
	ca  *x509.Certificate
	at  int64 // the last serial number
}

func newPKI(dir string) (*pki, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	p := &pki{dir: dir, key: key}
	template := p.template("trestle-test")
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if p.ca, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	if err := p.write("ca.crt", "CERTIFICATE", der); err != nil {
		return nil, err
	}
	return p, p.serviceAccounts()
}

func (p *pki) template(name string, groups ...string) *x509.Certificate {
	p.at++
	return &x509.Certificate{
		SerialNumber: big.NewInt(p.at),
		Subject:      pkix.Name{CommonName: name, Organization: groups},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// serviceAccounts makes the key that tokens of service accounts are signed with.
func (p *pki) serviceAccounts() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := p.write("sa.pub", "PUBLIC KEY", public); err != nil {
		return err
	}
	return p.writeKey("sa.key", key)
}

// sign makes NAME.crt and NAME.key for a user of these groups, who is also a server of
// these names and addresses.
func (p *pki) sign(file, user string, groups, servers []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := p.template(user, groups...)
	for _, s := range servers {
		if ip := net.ParseIP(s); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, s)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.ca, key.Public(), p.key)
	if err != nil {
		return err
	}
	if err := p.write(file+".crt", "CERTIFICATE", der); err != nil {
		return err
	}
	return p.writeKey(file+".key", key)
}

// client is sign, and a kubeconfig for it, NAME.conf.
func (p *pki) client(file, user string, groups ...string) error {
	if err := p.sign(file, user, groups, nil); err != nil {
		return err
	}
	return p.kubeconfig(file)
}

func (p *pki) kubeconfig(file string) error {
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "%s", certificate-authority: %s}}]
users: [{name: u, user: {client-certificate: %[3]s.crt, client-key: %[3]s.key}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, apiURL, filepath.Join(p.dir, "ca.crt"), filepath.Join(p.dir, file))
	return os.WriteFile(filepath.Join(p.dir, file+".conf"), []byte(text), 0o600)
}

func (p *pki) writeKey(file string, key crypto.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return p.write(file, "PRIVATE KEY", der)
}

func (p *pki) write(file, kind string, der []byte) error {
	return os.WriteFile(filepath.Join(p.dir, file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
