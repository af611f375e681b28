package arrows

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestArrows reads the import lines of the whole module.
func TestArrows(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || name == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		f := file{dir: filepath.ToSlash(rel), test: strings.HasSuffix(path, "_test.go")}
		seen[f.dir] = true
		src, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range src.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if why := judge(f, imported); why != "" {
				t.Errorf("%s: %s", path, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"cmd/roomlog", "client", "internal/node", "partition", "raftlog", "transport", "transport/wire"} {
		if !seen[dir] {
			t.Errorf("no source read in %s: the walk or the layout is wrong", dir)
		}
	}
}

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		dir, path string
		test      bool
		ok        bool
	}{
		{dir: "cmd/roomlog", path: module + "/client", ok: true},
		{dir: "cmd/roomlog", path: "github.com/spf13/viper", ok: true},
		{dir: "internal/node", path: module + "/raftlog", ok: true},
		{dir: "internal/node", path: "github.com/spf13/viper"},
		{dir: "internal/node", path: "github.com/hashicorp/raft"},

		{dir: "transport", path: module + "/partition", ok: true},
		{dir: "transport", path: module + "/transport/wire", ok: true},
		{dir: "transport", path: module + "/raftlog"},
		{dir: "transport", path: module + "/client"},
		{dir: "transport", path: module + "/internal/node"},
		{dir: "transport", path: "github.com/quic-go/quic-go", ok: true},
		{dir: "transport", path: "github.com/hashicorp/raft"},

		{dir: "transport/wire", path: "encoding/binary", ok: true},
		{dir: "transport/wire", path: "github.com/quic-go/quic-go"},
		{dir: "transport/wire", path: "golang.org/x/sys/unix"},
		{dir: "transport/wire", path: module + "/partition"},

		{dir: "transport/peer", path: "github.com/hashicorp/raft", ok: true},
		{dir: "transport/peer", path: module + "/raftlog"},
		{dir: "transport/peer", path: module + "/transport/wire"},
		{dir: "transport/peer/deeper", path: module + "/raftlog"},
		{dir: "transport/admin", path: module + "/partition"},
		{dir: "transport/admin", path: "github.com/prometheus/client_golang/prometheus", ok: true},

		{dir: "partition", path: module + "/raftlog", ok: true},
		{dir: "partition", path: module + "/transport"},
		{dir: "partition", path: module + "/transport/wire"},
		{dir: "partition", path: "github.com/hashicorp/raft"},
		{dir: "partition", path: "github.com/hashicorp/raft-boltdb/v2"},
		{dir: "partition", path: "go.etcd.io/bbolt"},
		{dir: "partition", path: module + "/internal/clustertest"},

		{dir: "partition", path: module + "/raftlog/vfs", ok: true},
		{dir: "partition", path: module + "/raftlog/segment"},

		{dir: "raftlog", path: module + "/raftlog/segment", ok: true},
		{dir: "raftlog", path: module + "/raftlog/vfs", ok: true},
		{dir: "raftlog/segment", path: module + "/raftlog/vfs", ok: true},
		{dir: "raftlog/segment", path: module + "/raftlog"},
		{dir: "raftlog/segment", path: "github.com/hashicorp/raft", ok: true},
		{dir: "raftlog/segment", path: module + "/raftlog/vfs/crashfs"},
		{dir: "raftlog/segment", path: module + "/raftlog/vfs/crashfs", test: true, ok: true},
		{dir: "partition", path: module + "/raftlog/vfs/crashfs", test: true, ok: true},
		{dir: "raftlog/vfs/crashfs", path: module + "/raftlog/vfs", ok: true},
		{dir: "raftlog/vfs/crashfs", path: module + "/raftlog"},
		{dir: "raftlog/vfs", path: "io/fs", ok: true},
		{dir: "raftlog/vfs", path: module + "/raftlog"},
		{dir: "raftlog/vfs", path: "github.com/hashicorp/raft"},
		{dir: "raftlog/segment", path: "github.com/hashicorp/raft-wal"},
		{dir: "raftlog", path: "github.com/hashicorp/raft", ok: true},
		{dir: "raftlog", path: "github.com/hashicorp/raft-boltdb/v2", ok: true},
		{dir: "raftlog", path: "go.etcd.io/bbolt", ok: true},
		{dir: "raftlog", path: module + "/transport/peer"},
		{dir: "raftlog", path: module + "/partition"},
		{dir: "raftlog", path: "github.com/spf13/viper"},

		{dir: "client", path: module + "/transport/wire", ok: true},
		{dir: "client", path: "github.com/quic-go/quic-go", ok: true},
		{dir: "client", path: "crypto/tls", ok: true},
		{dir: "client", path: module + "/transport"},
		{dir: "client", path: module + "/partition"},
		{dir: "client", path: "github.com/hashicorp/raft"},
		{dir: "client", path: "go.etcd.io/bbolt"},
		{dir: "client", path: "github.com/spf13/viper"},
		{dir: "client", path: "golang.org/x/sync/errgroup"},

		// tests
		{dir: "client", path: module + "/client", test: true, ok: true},
		{dir: "client", path: module + "/internal/clustertest", test: true, ok: true},
		{dir: "client", path: "pgregory.net/rapid", test: true, ok: true},
		{dir: "client", path: "pgregory.net/rapid"},
		{dir: "client", path: module + "/partition", test: true},
		{dir: "partition", path: "github.com/cockroachdb/datadriven", test: true, ok: true},
		{dir: "partition", path: "github.com/hashicorp/raft", test: true},
		{dir: "raftlog", path: "github.com/hashicorp/raft-wal", test: true, ok: true},
		{dir: "raftlog/segment", path: "github.com/hashicorp/raft-wal/metadb", test: true, ok: true},
		{dir: "partition", path: "github.com/hashicorp/raft-wal", test: true},
		{dir: "transport/peer", path: "github.com/hashicorp/raft-wal", test: true},
		{dir: "internal/bench", path: "github.com/hashicorp/raft-wal"},
	} {
		why := judge(file{dir: tt.dir, test: tt.test}, tt.path)
		if (why == "") != tt.ok {
			t.Errorf("%s importing %s (test %v): %q, want it allowed %v", tt.dir, tt.path, tt.test, why, tt.ok)
		}
	}
}
