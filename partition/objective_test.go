package partition

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

// usual is a reading of a leader on which all is well.
func usual() reading {
	return reading{
		leading: true, p99: 5 * ms,
		stages: [Stages]time.Duration{1 * ms, 100 * time.Microsecond, 1 * ms, 2 * ms, 50 * time.Microsecond, 1 * ms},
		counts: [Stages]uint64{100, 100, 100, 100, 100, 100},
	}
}

// slow adds to a stage of r, and to what is judged.
func (r reading) slow(s Stage, by time.Duration) reading {
	r.stages[s] += by
	if r.p99 += by; r.p99 > DefaultObjective {
		r.late = 10
	}
	return r
}

// learned is a judge to whom all was well.
func learned() *judge {
	j := &judge{objective: DefaultObjective}
	for range 10 {
		r := usual()
		j.look(&r, began)
	}
	return j
}

func TestBlame(t *testing.T) {
	type slowness map[Stage]time.Duration
	for _, tt := range []struct {
		name   string
		slow   slowness
		quiet  slowness // beside the usual
		follow bool     // the replica does not lead
		want   string
	}{
		{name: "receive alone", slow: slowness{Receive: 150 * ms}, want: "receive"},
		{name: "propose", slow: slowness{Propose: 150 * ms}, want: "propose"},
		{name: "append", slow: slowness{Append: 150 * ms}, want: "append"},
		{name: "commit", slow: slowness{Commit: 150 * ms}, want: "commit"},
		{name: "apply", slow: slowness{Apply: 150 * ms}, want: "apply"},
		{name: "write", slow: slowness{Write: 150 * ms}, want: "write"},
		{name: "the queue waits for two entries that are slow to append", slow: slowness{Receive: 300 * ms, Append: 150 * ms}, want: "append"},
		{name: "the queue waits for far more than that", slow: slowness{Receive: 3 * time.Second, Append: 150 * ms}, want: "receive"},
		{name: "commit grows more than append", slow: slowness{Append: 60 * ms, Commit: 80 * ms}, want: "commit"},
		{name: "append was as slow before", slow: slowness{Append: 70 * ms, Commit: 40 * ms}, quiet: slowness{Append: 70 * ms}, want: "commit"},
		{name: "append was slow before and has grown", slow: slowness{Append: 170 * ms, Commit: 40 * ms}, quiet: slowness{Append: 70 * ms}, want: "append"},
		{name: "a follower's own append", slow: slowness{Append: 150 * ms}, follow: true, want: "append"},
		{name: "a follower's own apply", slow: slowness{Apply: 150 * ms}, follow: true, want: "apply"},
		{name: "a follower's readers", slow: slowness{Write: 150 * ms}, follow: true, want: "write"},
		{name: "nothing of the follower's", slow: slowness{Commit: 150 * ms}, follow: true, want: "leader"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := &judge{objective: DefaultObjective}
			for range 100 {
				r := usual()
				for s, by := range tt.quiet {
					r = r.slow(s, by)
				}
				if v := j.look(&r, began); v != nothing {
					t.Fatalf("before: verdict %v", v)
				}
			}
			r := usual()
			for s, by := range tt.slow {
				r = r.slow(s, by)
			}
			r.leading = !tt.follow
			if v := j.look(&r, began); v != left || j.cause != tt.want {
				t.Errorf("verdict %v, cause %q, want %q", v, j.cause, tt.want)
			}
		})
	}
}

// TestBlameOfANewReplica: where nothing was learned the largest share counts.
func TestBlameOfANewReplica(t *testing.T) {
	j := &judge{objective: DefaultObjective}
	r := usual().slow(Append, 90*ms).slow(Commit, 60*ms)
	if v := j.look(&r, began); v != left || j.cause != "append" {
		t.Errorf("verdict %v, cause %q", v, j.cause)
	}
}

// TestJudge plays looks: each is the stage that is slow, in upper case by far, or
// "-" when none is, "." when there are no messages, "~" when it is close to the
// objective. What it says stands below, at the look.
func TestJudge(t *testing.T) {
	stages := map[byte]Stage{'r': Receive, 'p': Propose, 'a': Append, 'c': Commit, 'y': Apply, 'w': Write}
	for _, tt := range []struct{ name, looks, says string }{
		{"all is well", "----------", "          "},
		{"leaves at once", "--aaaaa", "  <    "},
		{"returns after three good looks", "-aaa-----", " <    >  "},
		{"a good look or two are none", "-aa--a-a--aaa---", " <             >"},
		{"close to the objective is not within", "-aa~~~~~~--~---", " <            >"},
		{"close to the objective is not without", "-~~~~~", "      "},
		{"silence is good", "-aa....", " <   > "},
		{"another cause takes over after three looks", "-aacccccc", " <   = "},
		{"another cause now and then does not", "-aaccaccacca", " <          "},
		{"two others in turn do not", "-aacwcwcwcw", " <         "},
		{"twice", "-aa---cc---", " <   ><   >"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := learned()
			var says strings.Builder
			for i := range tt.looks {
				r := usual()
				switch look := tt.looks[i]; look {
				case '-':
				case '.':
					r = reading{leading: true}
				case '~':
					r.p99 = 95 * ms
				default:
					r = r.slow(stages[look], 150*ms)
				}
				says.WriteString(map[verdict]string{nothing: " ", left: "<", changed: "=", returned: ">"}[j.look(&r, began.Add(time.Duration(i)*time.Second))])
			}
			if got := strings.TrimRight(says.String(), " "); got != strings.TrimRight(tt.says, " ") {
				t.Errorf("\nlooks %q\nsays  %q\nwant  %q", tt.looks, got, tt.says)
			}
		})
	}
}

// TestJudgeFew: one late message is no more than that.
func TestJudgeFew(t *testing.T) {
	j := learned()
	for late, want := range []verdict{nothing, nothing, nothing, left} {
		r := usual().slow(Append, 150*ms)
		if r.late = uint64(late); j.look(&r, began) != want {
			t.Errorf("%d late messages: out is %v", late, j.out)
		}
	}
}

// TestJudgeTells: how long it was out and the worst p99 are known at its return,
// and forgotten at the next leave.
func TestJudgeTells(t *testing.T) {
	j := learned()
	now := began
	look := func(by time.Duration) verdict {
		now = now.Add(time.Second)
		r := usual().slow(Append, by)
		return j.look(&r, now)
	}
	for _, by := range []time.Duration{200 * ms, 400 * ms, 300 * ms, 0, 0} {
		look(by)
	}
	if v := look(0); v != returned || j.worst != 405*ms || now.Sub(j.since) != 5*time.Second || j.cause != "" {
		t.Errorf("verdict %v, worst %v, after %v, cause %q", v, j.worst, now.Sub(j.since), j.cause)
	}
	if v := look(150 * ms); v != left || j.worst != 155*ms || j.since != now {
		t.Errorf("verdict %v, worst %v, since %v", v, j.worst, j.since)
	}
}

// TestLearn: what is usual is followed down at once and up slowly, and not at all
// while it is slow.
func TestLearn(t *testing.T) {
	j := learned()
	high := usual().slow(Append, 40*ms)
	j.look(&high, began)
	if got := j.quiet[Append]; got <= ms || got > 2*ms {
		t.Errorf("after one look at 41ms it is %v", got)
	}
	for range 300 {
		j.look(&high, began)
	}
	if got := j.quiet[Append]; got < 40*ms {
		t.Errorf("after many it is %v", got)
	}
	out := usual().slow(Append, 500*ms)
	for range 300 {
		j.look(&out, began)
	}
	if got := j.quiet[Append]; got > 41*ms {
		t.Errorf("it was learned while slow: %v", got)
	}
	j.out = false
	low := usual()
	j.look(&low, began)
	if got := j.quiet[Append]; got != ms {
		t.Errorf("after one look at 1ms it is %v", got)
	}
	none := usual()
	none.stages[Append], none.counts[Append] = 0, 0
	j.look(&none, began)
	if got := j.quiet[Append]; got != ms {
		t.Errorf("it was learned from nothing: %v", got)
	}
}

// TestBlameFromHistograms: what is added to histograms comes out as the stage to
// blame, for each stage and for loads that differ.
func TestBlameFromHistograms(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for guilty := range Stages {
		for _, perSecond := range []int{10, 300, 5000} {
			t.Run(fmt.Sprint(guilty, " at ", perSecond), func(t *testing.T) {
				s, j := newStages(), &judge{objective: DefaultObjective}
				look := func(second int, slow time.Duration) verdict {
					now := began.Add(time.Duration(second) * time.Second)
					for range perSecond {
						var whole time.Duration
						for stage, usual := range usual().stages {
							took := time.Duration(float64(usual) * (0.5 + random.ExpFloat64()))
							if Stage(stage) == guilty {
								took += slow
							}
							s.of[stage].add(took, 1, now)
							whole += took
						}
						s.drift.add(whole, 1, now)
					}
					w := s.drift.window(now)
					r := reading{leading: true, p99: w.quantile(0.99), late: w.over(j.objective)}
					for stage := range Stages {
						w := s.of[stage].window(now)
						r.stages[stage], r.counts[stage] = w.quantile(0.99), w.total
					}
					return j.look(&r, now)
				}
				for second := range 20 {
					if v := look(second, 0); v != nothing {
						t.Fatalf("second %d: verdict %v, cause %q", second, v, j.cause)
					}
				}
				if v := look(20, 150*ms); v != left || j.cause != guilty.String() {
					t.Fatalf("verdict %v, cause %q", v, j.cause)
				}
				for second := 21; ; second++ {
					if v := look(second, 0); v == returned {
						break
					} else if v != nothing || second > 40 {
						t.Fatalf("second %d: verdict %v, cause %q", second, v, j.cause)
					}
				}
			})
		}
	}
}
