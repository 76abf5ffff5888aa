// Runs subscribe, as docs/clients.md prints it: main URL. One line of JSON for each event that it gives.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/r3labs/sse/v2"
)

func main() {
	out := json.NewEncoder(os.Stdout)
	subscribe(os.Args[1], func(message *sse.Event) {
		err := out.Encode(map[string]string{
			"event": string(message.Event),
			"id":    string(message.ID),
			"data":  string(message.Data),
		})
		if err != nil {
			log.Fatal(err)
		}
	})
}
