//go:build !unix

package main

import (
	"context"
	"io"
)

// untilClosed is not known here: a closed output is noticed by the next write.
func untilClosed(ctx context.Context, _ io.Writer) (context.Context, func()) { return ctx, func() {} }
