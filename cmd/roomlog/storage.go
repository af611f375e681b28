package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/transport/wire"
)

const (
	minSegment   = 1 << 20
	maxSegment   = 1 << 30
	minRetention = time.Second
)

// orNone reads a value of which 0 means that there is no such limit.
func orNone[T int64 | time.Duration](c *checker, key string, parse func(string) (T, error), least T, leastText string) T {
	v, err := parse(c.values.get(key))
	switch {
	case err != nil:
		c.fail(key, "%v", err)
	case v != 0 && v < least:
		c.fail(key, "use 0 for no limit, or at least %s", leastText)
	}
	return v
}

func (c *checker) retention() node.Retention {
	r := node.Retention{
		Age:      orNone(c, "retention-age", parseTime, minRetention, minRetention.String()),
		Bytes:    orNone(c, "retention-bytes", parseSize, minBytes, formatBytes(minBytes)),
		Messages: orNone(c, "retention-messages", parseCount, 1, "1"),
	}
	var err error
	if r.Policies, err = parsePolicies(c.values.get("retention-policy"), r.Age); err != nil {
		c.fail("retention-policy", "%v", err)
	}
	return r
}

func parseTime(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, errors.New("use a number with a unit, such as 30m or 72h")
	}
	return d, nil
}

func parseCount(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, errors.New("use a number")
	}
	return n, nil
}

// parsePolicies reads "PREFIX=AGE,PREFIX=AGE". A policy can only shorten what is
// kept, so none is longer than age, if there is one.
func parsePolicies(text string, age time.Duration) ([]node.Policy, error) {
	if text == "" {
		return nil, nil
	}
	var policies []node.Policy
	for entry := range strings.SplitSeq(text, ",") {
		entry = strings.TrimSpace(entry)
		at := strings.LastIndexByte(entry, '=') // a room's name may have one
		if at < 0 {
			return nil, fmt.Errorf("%q: use PREFIX=AGE, with commas between the policies", entry)
		}
		p := node.Policy{Prefix: entry[:at]}
		var err error
		if p.Age, err = parseTime(entry[at+1:]); err != nil {
			return nil, fmt.Errorf("prefix %q: age %q: %w", p.Prefix, entry[at+1:], err)
		}
		switch {
		case p.Prefix == "":
			return nil, errors.New("a prefix is empty: for all rooms use retention-age")
		case wire.CheckRoom(p.Prefix) != nil:
			return nil, fmt.Errorf("prefix %q: no room's name can begin so", p.Prefix)
		case p.Age < minRetention:
			return nil, fmt.Errorf("prefix %q: use at least %v", p.Prefix, minRetention)
		case age > 0 && p.Age > age:
			return nil, fmt.Errorf("prefix %q: a policy can only shorten: use at most retention-age, which is %v", p.Prefix, age)
		case slices.ContainsFunc(policies, func(o node.Policy) bool { return o.Prefix == p.Prefix }):
			return nil, fmt.Errorf("prefix %q stands there twice", p.Prefix)
		}
		policies = append(policies, p)
	}
	if len(policies) > partition.MaxPolicies {
		return nil, fmt.Errorf("%d policies: use at most %d", len(policies), partition.MaxPolicies)
	}
	return policies, nil
}

// partitionSet reads what --rebuild is given: "all", or numbers with commas.
func partitionSet(text string, partitions int) ([]int, error) {
	var set []int
	if strings.TrimSpace(text) == "all" {
		for id := range partitions {
			set = append(set, id)
		}
		return set, nil
	}
	for entry := range strings.SplitSeq(text, ",") {
		id, err := strconv.Atoi(strings.TrimSpace(entry))
		if err != nil || id < 0 || id >= partitions {
			return nil, fmt.Errorf("partition %q: use numbers from 0 to %d with commas between them, or all", entry, partitions-1)
		}
		set = append(set, id)
	}
	slices.Sort(set)
	return slices.Compact(set), nil
}

// parseRebuild checks --rebuild against the rest of the configuration.
func (cfg config) parseRebuild(text string) ([]int, error) {
	voters := (&node.Config{Members: cfg.cluster, Nonvoters: cfg.nonvoters}).Voters()
	if !node.CanRebuild(cfg.node, voters) {
		return nil, fmt.Errorf("a cluster of %s cannot rebuild anything, it takes a majority without this node: restore the data from a copy",
			plural(len(voters), "voter"))
	}
	return partitionSet(text, cfg.partitions)
}

// sizeBetween reads a size within bounds.
func (c *checker) sizeBetween(key string, low, high int64) int64 {
	n, err := parseSize(c.values.get(key))
	switch {
	case err != nil:
		c.fail(key, "%v", err)
	case n < low && low == minBytes:
		c.fail(key, "use at least %s, the largest message", formatBytes(low))
	case n < low:
		c.fail(key, "use at least %s", formatBytes(low))
	case n > high:
		c.fail(key, "use at most %s", formatBytes(high))
	}
	return n
}

// unlimited is the bound of a size that has none.
const unlimited = math.MaxInt64
