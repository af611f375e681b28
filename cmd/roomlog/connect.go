package main

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/roomlog/roomlog/client"
)

// connectError: no server took us. Its first line says what to do; a line per
// reason follows, with the servers that have it.
type connectError struct {
	text string
	err  error
}

func (e *connectError) Error() string { return e.text }
func (e *connectError) Unwrap() error { return e.err }

// cannotConnect explains why dialling the servers failed. The SDK's error wraps
// one for each server, in their order.
func cannotConnect(servers []string, err error) error {
	reasons := []error{err}
	var each interface{ Unwrap() []error }
	if errors.As(err, &each) {
		reasons = each.Unwrap()
	}
	var order []string // reasons as they come
	having := map[string][]string{}
	at := distinct(servers)
	for i, reason := range reasons {
		if i >= len(at) {
			break // what ended the search, told for the others already
		}
		text := reasonText(reason)
		if having[text] == nil {
			order = append(order, text)
		}
		having[text] = append(having[text], at[i])
	}
	lines := []string{"cannot connect: " + adviceFor(err)}
	for _, text := range order {
		if len(reasons) == 1 {
			having[text] = at
		}
		lines = append(lines, strings.Join(having[text], ", ")+": "+text)
	}
	return &connectError{strings.Join(lines, "\n"), err}
}

func distinct(servers []string) []string {
	var out []string
	for _, s := range servers {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// adviceFor takes the reason that says most: a server that refuses us runs.
func adviceFor(err error) string {
	switch _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); {
	case errors.Is(err, client.ErrDenied):
		return "the token is wrong or missing; check --token, ROOMLOG_TOKEN or the profile's token"
	case untrusted:
		return "the server's certificate is not trusted; check --ca, ROOMLOG_CA or the profile's ca"
	case unanswered(err):
		return "no server answers; is the cluster running, and are these its addresses?"
	}
	return "no server takes the connection"
}

func reasonText(err error) string {
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return untrusted.Err.Error()
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there"
	case unanswered(err):
		return "no answer"
	}
	return err.Error()
}

// unanswered tells whether nothing came back but, at most, that the port is closed.
func unanswered(err error) bool {
	late, ok := errors.AsType[net.Error](err)
	return ok && late.Timeout() || errors.Is(err, syscall.ECONNREFUSED) || strings.Contains(err.Error(), "no answer within")
}
