package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/roomlog/roomlog/client"
)

// perServer is shaped as the SDK's error is.
type perServer struct{ errs []error }

func (e perServer) Error() string   { return "no server can be reached" }
func (e perServer) Unwrap() []error { return e.errs }

func TestCannotConnect(t *testing.T) {
	refused := func(port int) error {
		return fmt.Errorf("read udp 127.0.0.1:%d: %w", port, syscall.ECONNREFUSED)
	}
	untrusted := fmt.Errorf("CRYPTO_ERROR: %w", &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}})
	denied := fmt.Errorf("server: wrong token%w", hidden{client.ErrDenied})
	late := errors.New("no answer within 2s")
	for _, tt := range []struct {
		name string
		errs []error
		want string
	}{
		{"a dead cluster", []error{refused(1), refused(2), refused(3)},
			"cannot connect: no server answers; is the cluster running, and are these its addresses?\na:1, b:2, c:3: nothing listens there"},
		{"a dead cluster, out of time", []error{refused(1), late, refused(3), context.DeadlineExceeded},
			"cannot connect: no server answers; is the cluster running, and are these its addresses?\na:1, c:3: nothing listens there\nb:2: no answer"},
		{"out of time before all were tried", []error{late, context.DeadlineExceeded},
			"cannot connect: no server answers; is the cluster running, and are these its addresses?\na:1, b:2: no answer"},
		{"a wrong token, one dead", []error{refused(1), denied, denied},
			"cannot connect: the token is wrong or missing; check --token, ROOMLOG_TOKEN or the profile's token\na:1: nothing listens there\nb:2, c:3: server: wrong token"},
		{"another CA", []error{untrusted, untrusted, untrusted},
			"cannot connect: the server's certificate is not trusted; check --ca, ROOMLOG_CA or the profile's ca\na:1, b:2, c:3: x509: certificate signed by unknown authority"},
		{"something else", []error{errors.New("odd"), errors.New("odd"), errors.New("odder")},
			"cannot connect: no server takes the connection\na:1, b:2: odd\nc:3: odder"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := cannotConnect([]string{"a:1", "b:2", "a:1", "c:3"}, fmt.Errorf("client: %w", perServer{tt.errs}))
			if err.Error() != tt.want {
				t.Errorf("got\n%v\nwant\n%s", err, tt.want)
			}
			if !errors.Is(err, tt.errs[0]) {
				t.Error("the reason is not wrapped")
			}
		})
	}
	err := cannotConnect([]string{"a:1", "b:2"}, errors.New("token has 9999 bytes"))
	if want := "cannot connect: no server takes the connection\na:1, b:2: token has 9999 bytes"; err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// hidden is an error without words of its own.
type hidden struct{ error }

func (hidden) Error() string   { return "" }
func (h hidden) Unwrap() error { return h.error }
