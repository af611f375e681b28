// Package arrows holds the rules on which package may import which, and the
// test that keeps them:
//
//	cmd, internal/*   everything
//	transport         partition, transport/wire, transport/admin
//	transport/peer    none of ours; of Raft the StreamLayer alone
//	transport/admin   none of ours
//	transport/wire    the standard library
//	partition         raftlog, raftlog/vfs
//	raftlog           raftlog/segment, raftlog/vfs
//	raftlog/segment   raftlog/vfs
//	raftlog/vfs       the standard library; its crashfs is for tests alone
//	client            transport/wire, quic-go, the standard library
//
// Raft is named in raftlog, what is below it, and transport/peer alone, viper in cmd. Nothing
// outside cmd and internal imports from there. Test files follow their package
// in all but what they need to test it: internal/* and test libraries.
package arrows

import (
	"fmt"
	"strings"
)

const module = "github.com/roomlog/roomlog"

// file is one source file's place in the module and what it imports.
type file struct {
	dir  string // of its package, relative to the module's root: "transport/wire"
	test bool
}

// below tells whether dir is root or lies in it.
func below(dir, root string) bool { return dir == root || strings.HasPrefix(dir, root+"/") }

// ours are the packages of this module that a package may import; packages not
// named here (cmd, internal) may import all.
var ours = map[string][]string{
	"transport":       {"partition", "transport/wire", "transport/admin"},
	"transport/wire":  nil,
	"transport/peer":  nil,
	"transport/admin": nil,
	"partition":       {"raftlog", "raftlog/vfs"},
	"raftlog":         {"raftlog/segment", "raftlog/vfs"},
	"raftlog/segment": {"raftlog/vfs"},
	"raftlog/vfs":     nil,

	"raftlog/vfs/crashfs": {"raftlog/vfs"},
	"client":              {"transport/wire"},
}

// theirs are modules that only some packages may import.
var theirs = map[string][]string{
	"github.com/spf13/viper":    {"cmd"},
	"github.com/spf13/cobra":    {"cmd"},
	"github.com/hashicorp/raft": {"raftlog", "transport/peer"},
	"go.etcd.io/bbolt":          {"raftlog"},
	"github.com/quic-go":        {"client", "transport", "cmd", "internal"},
}

// only are packages that may import nothing from outside but what is listed.
var only = map[string][]string{
	"client":         {"github.com/quic-go/quic-go"},
	"transport/wire": {},
	"raftlog/vfs":    {},
}

// testLibraries may be imported by any test, testPeers by those of a package
// that is measured against them.
var (
	testLibraries = []string{"github.com/cockroachdb/datadriven", "pgregory.net/rapid", module + "/raftlog/vfs/crashfs"}
	testPeers     = map[string]string{"github.com/hashicorp/raft-wal": "raftlog"}
)

// judge tells why a file may not import path; "" if it may.
func judge(f file, path string) string {
	if f.test && (below(path, module+"/internal") || inAny(path, testLibraries)) {
		return ""
	}
	if rel, ok := inModule(path); ok {
		return judgeOurs(f, rel)
	}
	return judgeTheirs(f, path)
}

func inModule(path string) (rel string, ok bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

func judgeOurs(f file, rel string) string {
	if rel == f.dir { // an external test
		return ""
	}
	allowed, ruled := rulesFor(f.dir, ours)
	if !ruled {
		return ""
	}
	for _, a := range allowed {
		if rel == a {
			return ""
		}
	}
	return fmt.Sprintf("%s must not import %s of this module", f.dir, rel)
}

func judgeTheirs(f file, path string) string {
	for other, dir := range testPeers {
		if below(path, other) && !(f.test && below(f.dir, dir)) {
			return fmt.Sprintf("%s must not import %s, only tests in %s may", f.dir, path, dir)
		}
	}
	for prefix, dirs := range theirs {
		if !below(path, prefix) && !strings.HasPrefix(path, prefix+"-") {
			continue
		}
		if !inAny(f.dir, dirs) {
			return fmt.Sprintf("%s must not import %s, only %s may", f.dir, path, strings.Join(dirs, ", "))
		}
	}
	allowed, ruled := only[f.dir]
	if standard(path) || !ruled || inAny(path, allowed) {
		return ""
	}
	return fmt.Sprintf("%s must not import %s: it uses the standard library and %q alone", f.dir, path, allowed)
}

// rulesFor finds the rule of dir or of the nearest folder above it.
func rulesFor(dir string, rules map[string][]string) (allowed []string, ok bool) {
	for {
		if allowed, ok := rules[dir]; ok {
			return allowed, true
		}
		i := strings.LastIndexByte(dir, '/')
		if i < 0 {
			return nil, false
		}
		dir = dir[:i]
	}
}

func inAny(path string, roots []string) bool {
	for _, r := range roots {
		if below(path, r) {
			return true
		}
	}
	return false
}

// standard tells whether path belongs to the standard library: the first
// element of any other has a dot.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}
