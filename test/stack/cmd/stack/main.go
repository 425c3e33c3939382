// Command stack runs the embedded broker and registry in a process of their own, so that processes that use them can
// be killed. It prints both addresses, one a line, and runs until its standard input is closed.
package main

import (
	"fmt"
	"io"
	"os"

	"databus/pkg/embedded"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "stack:", err)
		os.Exit(1)
	}
}

func run() error {
	stack, err := embedded.StartStack(embedded.StackOptions{})
	if err != nil {
		return err
	}
	fmt.Println(stack.Broker.Addr())
	fmt.Println(stack.Registry.URL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return stack.Close()
}
