package main

import "github.com/r3labs/sse/v2"

// subscribe is the library alone. The tests build with what docs/clients.md prints in place of this file, and show
// with this one that the loop is needed.
func subscribe(url string, handle func(*sse.Event)) {
	sse.NewClient(url).SubscribeRaw(handle)
}
