// Package faultnet is a network for tests of real processes, whose faults are
// made to order. Each host is a network namespace of its own with one interface,
// a TUN device; this process holds the other ends and is the switch between
// them, in user space:
//
//	process in host a -> its kernel -> TUN a -> switch (faults) -> TUN b -> kernel -> process in b
//
// So each host has the whole of a kernel's network to itself: a process that was
// killed leaves a host whose kernel refuses its ports (TCP reset, ICMP port
// unreachable), while one behind a fault that drops everything is just silent.
//
// Faults work on the packets from some hosts to some others (Inject): they are
// dropped, delayed, reordered, duplicated, corrupted or held to a rate, and each
// fault counts the packets that it took effect on. Several may meet one packet.
// All apply in the order of their injection. A Fault's choices follow its seed,
// as far as packets come in the same order.
//
// # Bounds
//
// A packet without a delay is handed on by the goroutine that reads its host's
// TUN device, and there is one of these per host. A packet with a delay waits in one
// queue, which has a goroutine of its own and holds at most 64 MiB; what comes on
// top is dropped. What is under way when a fault is taken off arrives when it was
// due, and newer packets may overtake it. Packets to nobody are dropped, and so is
// all that is not IPv4.
//
// # Use
//
// Linux, root (CAP_SYS_ADMIN, CAP_NET_ADMIN) and /dev/net/tun are needed; New says
// so where they are missing. Nothing has a name outside of this process, so
// nothing is left when it dies: namespaces are held by file descriptors and by
// the processes in them, and devices are gone with their descriptors.
package faultnet
