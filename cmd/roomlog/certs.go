package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roomlog/roomlog/internal/certs"
)

func newCerts(a *app) *cobra.Command {
	var out string
	var nodes []string
	var newCA bool
	cmd := &cobra.Command{
		Use:   "certs --out DIR --node NAME[=HOST,HOST...]...",
		Short: "Make certificates for the nodes of a cluster",
		Long: `Make an authority in DIR, or use the one that is there, and sign a certificate
for each node: DIR/NAME/ca.pem, cert.pem and key.pem. Called again for a node, it
makes that node a new certificate.

The hosts are the names and addresses under which clients and other nodes reach a
node; localhost and 127.0.0.1 are always among them. DIR/ca.pem is what clients
need. DIR/ca-key.pem signs: keep it off the nodes.`,
		Example: `  roomlog certs --out certs --node n1=10.0.0.1 --node n2=10.0.0.2 --node n3=10.0.0.3,n3.example.org`,
		Args:    noArgs,
	}
	cmd.Flags().StringVar(&out, "out", "", "directory to put them into")
	cmd.Flags().StringArrayVar(&nodes, "node", nil, "a node's name, and its hosts behind a =; repeatable")
	cmd.Flags().BoolVar(&newCA, "new-ca", false, "replace the authority in DIR: every node and client then needs new files")
	for _, name := range []string{"out", "node"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined above
		}
	}
	cmd.RunE = func(*cobra.Command, []string) error {
		wanted, err := parseCertNodes(nodes)
		if err != nil {
			return err
		}
		made, err := makeCerts(out, wanted, newCA)
		if err != nil {
			return err
		}
		return a.printCerts(out, made)
	}
	return cmd
}

type certNode struct {
	name  string
	hosts []string
}

func parseCertNodes(args []string) ([]certNode, error) {
	var nodes []certNode
	seen := make(map[string]bool)
	for _, arg := range args {
		name, hosts, _ := strings.Cut(arg, "=")
		if err := checkDirName(name); err != nil {
			return nil, usagef("--node %q: %w", arg, err)
		}
		if seen[name] {
			return nil, usagef("--node %q: %s is given twice", arg, name)
		}
		seen[name] = true
		n := certNode{name: name}
		if hosts != "" {
			n.hosts = strings.Split(hosts, ",")
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// checkDirName keeps a node's name from leading out of the directory.
func checkDirName(name string) error {
	bad := strings.ContainsFunc(name, func(r rune) bool {
		return r != '-' && r != '_' && r != '.' && !('0' <= r && r <= '9') && !('a' <= r && r <= 'z') && !('A' <= r && r <= 'Z')
	})
	if bad || name == "" || len(name) > 64 || strings.HasPrefix(name, ".") {
		return fmt.Errorf("a node's name is made of 1 to 64 letters, digits, '-', '_' and '.', the first no '.'")
	}
	return nil
}

// certLine is what certs prints in JSON.
type certLine struct {
	Node     string   `json:"node"`
	CA       string   `json:"ca"`
	Cert     string   `json:"cert"`
	Key      string   `json:"key"`
	Hosts    []string `json:"hosts"`
	NotAfter string   `json:"not_after"`
}

func makeCerts(out string, nodes []certNode, newCA bool) ([]certLine, error) {
	ca, err := authority(out, newCA)
	if err != nil {
		return nil, err
	}
	var made []certLine
	for _, n := range nodes {
		pair, err := ca.Issue(n.name, n.hosts...)
		if err != nil {
			return made, usagef("--node %s: %w", n.name, err)
		}
		dir := filepath.Join(out, n.name)
		if err := pair.Write(dir, newCA); err != nil {
			return made, err
		}
		hosts, notAfter, err := pair.Names()
		if err != nil {
			return made, err
		}
		made = append(made, certLine{
			Node: n.name, CA: filepath.Join(dir, certs.CAFile), Cert: filepath.Join(dir, certs.CertFile),
			Key: filepath.Join(dir, certs.KeyFile), Hosts: hosts, NotAfter: notAfter.UTC().Format(time.RFC3339),
		})
	}
	return made, nil
}

func authority(out string, newCA bool) (*certs.CA, error) {
	if !newCA {
		ca, _, err := certs.OpenCA(out)
		return ca, err
	}
	ca, err := certs.NewCA()
	if err != nil {
		return nil, err
	}
	return ca, ca.Write(out, true)
}

func (a *app) printCerts(out string, made []certLine) error {
	err := emitTable(a, made, []string{"NODE", "CERTIFICATE", "VALID FOR", "UNTIL"}, func(c certLine) []any {
		return []any{c.Node, c.Cert, strings.Join(c.Hosts, ","), c.NotAfter}
	})
	if err != nil || a.output == "json" {
		return err
	}
	return a.emit(nil, func(w io.Writer) {
		fmt.Fprintf(w, "\nClients need %s; keep %s off the nodes.\n",
			filepath.Join(out, certs.CAFile), filepath.Join(out, certs.CAKeyFile))
	})
}
