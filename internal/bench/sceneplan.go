package bench

import (
	"bufio"
	_ "embed"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Timings of a live stream's chat, which the scenes replay scaled up: messages in
// each second, of a calm stretch and of one that begins with the busiest second.
//
//go:embed live-stream.txt
var liveStream string

// stretches reads them: lines of numbers, each stretch behind its name.
func stretches(text string) (map[string][]float64, error) {
	found := make(map[string][]float64)
	name := ""
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "" || line[0] == '#':
		case line[0] < '0' || line[0] > '9':
			name = line
		default:
			for word := range strings.FieldsSeq(line) {
				n, err := strconv.ParseUint(word, 10, 16)
				if err != nil {
					return nil, fmt.Errorf("stretch %q: %w", name, err)
				}
				found[name] = append(found[name], float64(n))
			}
		}
	}
	return found, nil
}

// chat is how lively a stream's chat is, second by second.
type chat struct{ quiet, burst []float64 }

func liveChat() chat {
	s, err := stretches(liveStream)
	if err != nil {
		panic(err) // it is part of the program
	}
	return chat{quiet: s["calm"], burst: s["burst"]}
}

// calm is n seconds of ordinary chat in so many streams together, mean messages a
// second. Each stream is at another place of it.
func (c chat) calm(n, streams int, mean float64) []float64 {
	sum := make([]float64, n)
	for i := range streams {
		at := i * len(c.quiet) / streams
		for j, r := range repeated(slices.Concat(c.quiet[at:], c.quiet[:at]), n) {
			sum[j] += r
		}
	}
	return summing(sum, mean*float64(n))
}

// surge is n seconds from the moment on that everybody has waited for; most is the
// rate in the busiest second, which is the first.
func (c chat) surge(n int, most float64) []float64 {
	return scaled(repeated(c.burst, n), most/slices.Max(c.burst))
}

// total is n seconds of the same, with so many messages in all.
func (c chat) total(n int, sum float64) []float64 { return summing(repeated(c.burst, n), sum) }

// repeated is the first n of values, from the start again where there are fewer.
func repeated(values []float64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = values[i%len(values)]
	}
	return out
}

// summing scales values so that they add up to total.
func summing(values []float64, total float64) []float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return scaled(values, total/sum)
}

func scaled(values []float64, by float64) []float64 {
	for i := range values {
		values[i] *= by
	}
	return values
}

// plan says when messages are due: each second has its number of them, evenly
// spread in it.
type plan struct {
	from time.Duration
	sums []float64 // messages due before the end of each second
}

func newPlan(from time.Duration, rates []float64) *plan {
	p := &plan{from: from, sums: make([]float64, len(rates))}
	sum := 0.0
	for i, r := range rates {
		sum += r
		p.sums[i] = sum
	}
	return p
}

// count is how many messages there are.
func (p *plan) count() int {
	if len(p.sums) == 0 {
		return 0
	}
	return int(p.sums[len(p.sums)-1] + 0.5)
}

// due is when message n, from 0, shall be published: in the middle of its share
// of the time.
func (p *plan) due(n int) time.Duration {
	at := float64(n) + 0.5
	second := min(sort.SearchFloat64s(p.sums, at), len(p.sums)-1)
	before := 0.0
	if second > 0 {
		before = p.sums[second-1]
	}
	part := (at - before) / (p.sums[second] - before)
	return p.from + time.Duration((float64(second)+min(part, 1))*float64(time.Second))
}
