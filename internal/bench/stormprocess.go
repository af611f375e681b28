package bench

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"time"
)

// crowdProcess is the process of a crowd: thousands of clients that connect at once keep
// each other waiting, and must not keep those waiting whose latencies are measured. It is nice,
// for on other machines it would leave the servers' processors alone.
type crowdProcess struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	words *json.Encoder

	gathered, resumed chan struct{} // closed
	reported          chan *crowdReport
	failed            chan error
	ended             chan struct{} // closed, after all others
}

// crowdNiceness is that of nice(1).
const crowdNiceness = "5"

// startCrowd starts it: binary bench storm-crowd. progress is told until it has gathered.
func startCrowd(binary string, o crowdOrder, progress Progress) (*crowdProcess, error) {
	name, args := binary, []string{"bench", "storm-crowd"}
	if nice, err := exec.LookPath("nice"); err == nil {
		name, args = nice, append([]string{"-n", crowdNiceness, binary}, args...)
	}
	p := &crowdProcess{
		cmd:      exec.Command(name, args...),
		gathered: make(chan struct{}), resumed: make(chan struct{}), ended: make(chan struct{}),
		reported: make(chan *crowdReport, 1), failed: make(chan error, 1),
	}
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.in, p.words = in, json.NewEncoder(in)
	go p.listen(out, progress)
	if err := p.words.Encode(o); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// listen takes the news until there are none any more.
func (p *crowdProcess) listen(out io.Reader, progress Progress) {
	defer close(p.ended)
	news := json.NewDecoder(out)
	for {
		var n crowdNews
		switch err := news.Decode(&n); {
		case err != nil:
			p.fail(errCrowdGone)
			p.cmd.Wait() // killed or not: it has said all
			return
		case n.Error != "":
			p.fail(errors.New(n.Error))
		case n.Gathered:
			close(p.gathered)
		case n.Resumed:
			close(p.resumed)
		case n.Report != nil:
			p.reported <- n.Report
		default:
			progress(n.Doing, n.Done)
		}
	}
}

// fail keeps the first error.
func (p *crowdProcess) fail(err error) {
	select {
	case p.failed <- err:
	default:
	}
}

func (p *crowdProcess) tell(w crowdWord) error { return p.words.Encode(w) }

// close ends the process.
func (p *crowdProcess) close() {
	p.in.Close()
	late := time.AfterFunc(patience, func() { p.cmd.Process.Kill() })
	defer late.Stop()
	<-p.ended
}
