package crashfs

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
)

// Sync is one call of File.Sync or FS.SyncDir.
type Sync struct {
	N     int    // counts them from 0
	Dir   bool   // a SyncDir
	Path  string // of the file, or of the directory
	After int    // operations made before it; only FS.Syncs tells
	pcs   []uintptr
}

func newSync(path string, dir bool) *Sync {
	pcs := make([]uintptr, 12)
	return &Sync{Dir: dir, Path: path, pcs: pcs[:runtime.Callers(3, pcs)]}
}

func (s Sync) text() string {
	if s.Dir {
		return "syncdir " + s.Path
	}
	return "sync " + filepath.Base(s.Path)
}

// Site is the line that called, outside the packages of file systems.
func (s Sync) Site() string {
	site, _, _ := strings.Cut(s.Calls(), " < ")
	return site
}

// Calls is Site, its caller and so on to the border of the package, tests left
// out: "f (log.go:12) < StoreLogs (log.go:80)". Two syncs of one purpose have the same.
func (s Sync) Calls() string {
	var calls []string
	var home string
	for frames, more := runtime.CallersFrames(s.pcs), true; more; {
		var frame runtime.Frame
		frame, more = frames.Next()
		dir, function := filepath.Split(frame.Function)
		pkg, function, _ := strings.Cut(function, ".")
		test := strings.HasSuffix(frame.File, "_test.go")
		switch {
		case home == "" && !test && (pkg == "crashfs" || pkg == "vfs"):
			continue
		case home == "":
			home = dir + pkg
		case home != dir+pkg || test:
			more = false
			continue
		}
		calls = append(calls, fmt.Sprintf("%s (%s:%d)", function, filepath.Base(frame.File), frame.Line))
	}
	return strings.Join(calls, " < ")
}

// Kind tells what the sync is for: what kind of thing is synced, and who calls.
// It is the same for all calls that one line of code makes for one caller.
func (s Sync) Kind() string {
	what := "directory"
	if !s.Dir {
		what = filepath.Ext(s.Path)
		if what == "" {
			what = filepath.Base(s.Path)
		}
	}
	return what + " by " + s.Calls()
}

func (s Sync) String() string { return fmt.Sprintf("%s (sync %d, %s)", s.text(), s.N, s.Calls()) }
