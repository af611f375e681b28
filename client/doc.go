// Package client publishes to the rooms of a roomlog cluster and follows them.
//
// Publishes of one client to one room are numbered in the order of the calls,
// each once, through lost connections and changes of leader:
//
//	Publish -> lane (one per partition: session, counters, retries)
//	        -> the publish stream of the connection to the partition's leader
//
// A subscription reads one room from any replica, in order and without holes;
// when its node fails it continues elsewhere behind the last message it
// yielded. What cannot be had any more is yielded as a Gap. How soon it notices is
// up to the network, and to WithStandby.
//
// A Client is safe for concurrent use. Close ends all of its goroutines.
package client
