package transport

import (
	"bytes"
	"os"
	"strconv"
	"sync"
)

// procStat is kept open: it is read twenty times a second.
var procStat = sync.OnceValue(func() *os.File {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return nil
	}
	return f
})

func readCPU() cpuTimes {
	c := cpuTimes{own: ownCPU()}
	f := procStat()
	if f == nil {
		return c
	}
	var buf [256]byte
	n, _ := f.ReadAt(buf[:], 0)
	c.busy, c.all = parseStat(buf[:n])
	return c
}

// parseStat reads the first line of /proc/stat: cpu, then ticks of user, nice,
// system, idle, iowait and so on. Who waits for a disk needs no processor.
func parseStat(text []byte) (busy, all uint64) {
	line, _, ok := bytes.Cut(text, []byte("\n"))
	fields := bytes.Fields(line)
	if !ok || len(fields) < 6 || string(fields[0]) != "cpu" {
		return 0, 0
	}
	for i, field := range fields[1:min(len(fields), 9)] { // guests are in user and nice
		ticks, err := strconv.ParseUint(string(field), 10, 64)
		if err != nil {
			return 0, 0
		}
		if all += ticks; i != 3 && i != 4 {
			busy += ticks
		}
	}
	return busy, all
}
