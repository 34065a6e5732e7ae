// Command certmanager makes the calls that cert-manager makes, in its order, with its library,
// golang.org/x/crypto/acme: discover or register the account, order, look at each authorization,
// accept one challenge and poll, finalize from the order's URL, fetch again by certificate URL
// with all alternates, renew, refuse to finalize twice, roll the account key, revoke.
package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/acme"
)

type options struct {
	directory, bundle, webroot, dnsManagement, name, out string
	revoke, repeat                                       bool
}

func main() {
	var o options
	flag.StringVar(&o.directory, "directory", "", "directory URL")
	flag.StringVar(&o.bundle, "bundle", "", "PEM file that the server's certificate chains to")
	flag.StringVar(&o.webroot, "webroot", "", "directory of http-01 tokens")
	flag.StringVar(&o.dnsManagement, "dns", "", "management URL of the mock resolver")
	flag.StringVar(&o.name, "name", "", "name to certify; a wildcard of it is added by dns-01")
	flag.StringVar(&o.out, "out", ".", "directory for the files made")
	flag.BoolVar(&o.revoke, "revoke", false, "revoke at the end, by the rolled account key")
	flag.BoolVar(&o.repeat, "repeat", false, "accept a challenge again once it is valid")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 110*time.Second)
	defer cancel()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	client, err := newClient(o)
	if err != nil {
		return err
	}
	if err := account(ctx, client); err != nil {
		return fmt.Errorf("account: %w", err)
	}
	if _, err := obtain(ctx, client, o, "first"); err != nil {
		return fmt.Errorf("obtain: %w", err)
	}
	der, err := obtain(ctx, client, o, "second")
	if err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	if err := rollover(ctx, client); err != nil {
		return fmt.Errorf("rollover: %w", err)
	}
	if !o.revoke {
		return nil
	}
	if err := client.RevokeCert(ctx, nil, der, acme.CRLReasonSuperseded); err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	// The library takes alreadyRevoked for success, cert-manager relies on it.
	if err := client.RevokeCert(ctx, nil, der, acme.CRLReasonSuperseded); err != nil {
		return fmt.Errorf("second revocation: %w", err)
	}
	return nil
}

// newClient has an RSA account key, as cert-manager always has.
func newClient(o options) (*acme.Client, error) {
	roots, err := os.ReadFile(o.bundle)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	return &acme.Client{
		Key:          key,
		HTTPClient:   &http.Client{Transport: transport},
		DirectoryURL: o.directory,
		UserAgent:    "cert-manager-challenges/v1 (interop)",
	}, nil
}

// account looks the key up first (onlyReturnExisting), registers, and looks it up again.
func account(ctx context.Context, client *acme.Client) error {
	if _, err := client.GetReg(ctx, ""); !errors.Is(err, acme.ErrNoAccount) {
		return fmt.Errorf("look-up of an unknown key: got %v, want ErrNoAccount", err)
	}
	contact := []string{"mailto:certmanager@example.test"}
	made, err := client.Register(ctx, &acme.Account{Contact: contact}, acme.AcceptTOS)
	if err != nil {
		return err
	}
	if _, err := client.Register(ctx, &acme.Account{Contact: contact}, acme.AcceptTOS); !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return fmt.Errorf("second registration: got %v, want ErrAccountAlreadyExists", err)
	}
	found, err := client.GetReg(ctx, "")
	if err != nil {
		return err
	}
	if found.URI != made.URI || found.Status != acme.StatusValid {
		return fmt.Errorf("look-up gave %q (%s), registration %q", found.URI, found.Status, made.URI)
	}
	made.Contact = []string{"mailto:other@example.test"}
	_, err = client.UpdateReg(ctx, made)
	return err
}

func obtain(ctx context.Context, client *acme.Client, o options, base string) ([]byte, error) {
	ids := acme.DomainIDs(o.name, "*."+o.name)
	order, err := client.AuthorizeOrder(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, url := range order.AuthzURLs {
		if err := authorize(ctx, client, o, url); err != nil {
			return nil, fmt.Errorf("%s: %w", url, err)
		}
	}
	ready, err := client.WaitOrder(ctx, order.URI)
	if err != nil {
		return nil, err
	}
	csr, err := newCSR(o, base)
	if err != nil {
		return nil, err
	}
	chain, url, err := client.CreateOrderCert(ctx, ready.FinalizeURL, csr, true)
	if err != nil {
		return nil, err
	}
	if err := finalizeAgain(ctx, client, order.URI, ready.FinalizeURL, csr); err != nil {
		return nil, err
	}
	if err := refetch(ctx, client, url, chain); err != nil {
		return nil, err
	}
	return chain[0], writeChain(filepath.Join(o.out, base+".pem"), chain)
}

// authorize is one Challenge resource of cert-manager's: present, accept, poll until final.
func authorize(ctx context.Context, client *acme.Client, o options, url string) error {
	authz, err := client.GetAuthorization(ctx, url)
	if err != nil || authz.Status == acme.StatusValid {
		return err
	}
	wanted := "http-01"
	if authz.Wildcard {
		wanted = "dns-01"
	}
	for _, challenge := range authz.Challenges {
		if challenge.Type != wanted {
			continue
		}
		if err := present(client, o, authz.Identifier.Value, challenge); err != nil {
			return err
		}
		if _, err := client.GetChallenge(ctx, challenge.URI); err != nil {
			return err
		}
		if _, err := client.Accept(ctx, challenge); err != nil {
			return err
		}
		if _, err := client.WaitAuthorization(ctx, url); err != nil || !o.repeat {
			return err
		}
		if _, err := client.Accept(ctx, challenge); err != nil {
			return fmt.Errorf("second accept of a valid challenge: %w", err)
		}
		return nil
	}
	return fmt.Errorf("no %s among %d challenges", wanted, len(authz.Challenges))
}

func present(client *acme.Client, o options, name string, challenge *acme.Challenge) error {
	if challenge.Type == "http-01" {
		answer, err := client.HTTP01ChallengeResponse(challenge.Token)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(o.webroot, challenge.Token), []byte(answer), 0o644)
	}
	value, err := client.DNS01ChallengeRecord(challenge.Token)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]string{"host": "_acme-challenge." + name + ".", "value": value})
	if err != nil {
		return err
	}
	answer, err := http.Post(o.dnsManagement+"/set-txt", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

func newCSR(o options, base string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if err := writeKey(filepath.Join(o.out, base+".key"), key); err != nil {
		return nil, err
	}
	template := &x509.CertificateRequest{DNSNames: []string{o.name, "*." + o.name}}
	return x509.CreateCertificateRequest(rand.Reader, template, key)
}

// finalizeAgain is what a restarted cert-manager does: it must get the certificate, or a 403 after
// which it reads the order; any other refusal makes it fail the Order for good.
func finalizeAgain(ctx context.Context, client *acme.Client, order, finalize string, csr []byte) error {
	_, _, err := client.CreateOrderCert(ctx, finalize, csr, true)
	var problem *acme.Error
	if err != nil && !(errors.As(err, &problem) && problem.StatusCode == http.StatusForbidden) {
		return fmt.Errorf("second finalize: %w", err)
	}
	again, err := client.GetOrder(ctx, order)
	if err != nil {
		return err
	}
	if again.Status != acme.StatusValid || again.CertURL == "" {
		return fmt.Errorf("order after finalize: %s, certificate %q", again.Status, again.CertURL)
	}
	return nil
}

// refetch downloads the certificate again, and every alternate chain: each ends in the same leaf.
func refetch(ctx context.Context, client *acme.Client, url string, chain [][]byte) error {
	again, err := client.FetchCert(ctx, url, true)
	if err != nil {
		return err
	}
	if !bytes.Equal(again[0], chain[0]) {
		return errors.New("the certificate URL serves another leaf")
	}
	alternates, err := client.ListCertAlternates(ctx, url)
	if err != nil {
		return err
	}
	for _, alternate := range alternates {
		other, err := client.FetchCert(ctx, alternate, true)
		if err != nil {
			return fmt.Errorf("alternate %s: %w", alternate, err)
		}
		if !bytes.Equal(other[0], chain[0]) {
			return fmt.Errorf("alternate %s has another leaf", alternate)
		}
	}
	return nil
}

func rollover(ctx context.Context, client *acme.Client) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	before, err := client.GetReg(ctx, "")
	if err != nil {
		return err
	}
	if err := client.AccountKeyRollover(ctx, key); err != nil {
		return err
	}
	after, err := client.GetReg(ctx, "")
	if err != nil {
		return err
	}
	if before.URI != after.URI {
		return fmt.Errorf("account was %s, is %s", before.URI, after.URI)
	}
	return nil
}

func writeKey(path string, key crypto.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func writeChain(path string, chain [][]byte) error {
	var text bytes.Buffer
	for _, der := range chain {
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return err
		}
	}
	return os.WriteFile(path, text.Bytes(), 0o644)
}
