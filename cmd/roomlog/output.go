package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// emit prints v as one line of JSON, or calls text, as --output says. It
// returns the first error of writing.
func (a *app) emit(v any, text func(w io.Writer)) error {
	if a.output == "json" {
		return a.emitJSON(v)
	}
	w := &firstError{w: a.stdout}
	text(w)
	if w.err != nil {
		return fmt.Errorf("write output: %w", w.err)
	}
	return nil
}

// emitJSON prints v as one line of JSON, whatever --output says.
func (a *app) emitJSON(v any) error {
	w := &firstError{w: a.stdout}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil && w.err == nil {
		return fmt.Errorf("encode output: %w", err)
	}
	if w.err != nil {
		return fmt.Errorf("write output: %w", w.err)
	}
	return nil
}

// emitTable prints one JSON object a line per item, or an aligned table.
func emitTable[T any](a *app, items []T, header []string, row func(T) []any) error {
	if a.output == "json" {
		for _, item := range items {
			if err := a.emit(item, nil); err != nil {
				return err
			}
		}
		return nil
	}
	return a.emit(nil, func(w io.Writer) {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		printRow(tw, header)
		for _, item := range items {
			printRow(tw, row(item))
		}
		tw.Flush() // w keeps the error
	})
}

func printRow[T any](w io.Writer, cells []T) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		fmt.Fprint(w, c)
	}
	fmt.Fprintln(w)
}

// firstError writes until a write fails and keeps that error, so that text
// functions need not check each line.
type firstError struct {
	w   io.Writer
	err error
}

func (f *firstError) Write(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.w.Write(p)
	f.err = err
	return n, err
}

// warn tells the user of something that does not stop the command.
func (a *app) warn(text string) { fmt.Fprintf(a.stderr, "roomlog: warning: %s\n", text) }

// formatBytes writes a size as people read it.
func formatBytes(n int64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/(1<<10), 0
	for value >= 1<<10 && unit < len(units)-1 {
		value, unit = value/(1<<10), unit+1
	}
	return strings.Replace(fmt.Sprintf("%.1f %ciB", value, units[unit]), ".0 ", " ", 1)
}

// plural counts things whose plural ends in s.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
