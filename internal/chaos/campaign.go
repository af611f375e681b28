package chaos

import (
	"fmt"
	"path/filepath"
	"time"
)

// Campaign is many runs: each nemesis alone, and mixes of all of them.
type Campaign struct {
	Base  Options       // of all runs; seed, history, nodes, nemeses and duration are set here
	Dir   string        // where the histories go
	Seed  uint64        // of the first run; the others' follow
	Alone time.Duration // of a run with one nemesis
	Mixed time.Duration // of a run with all
	Mixes int           // how many of these, the last one with five nodes
}

// Runs are the campaign's runs.
func (c Campaign) Runs() (runs []Options) {
	for _, n := range Nemeses() {
		runs = append(runs, c.run(len(runs), n.Name, 3, c.Alone))
	}
	for i := range c.Mixes {
		nodes := 3
		if i == c.Mixes-1 {
			nodes = 5
		}
		runs = append(runs, c.run(len(runs), Mix, nodes, c.Mixed))
	}
	return runs
}

func (c Campaign) run(i int, nemesis string, nodes int, duration time.Duration) Options {
	o := c.Base
	o.Seed, o.Nodes, o.Nemeses, o.Duration = c.Seed+uint64(i), nodes, []string{nemesis}, duration
	o.History = filepath.Join(c.Dir, fmt.Sprintf("%02d-%s-%d.jsonl.gz", i+1, nemesis, o.Seed))
	return o
}
