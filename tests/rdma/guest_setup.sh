#!/bin/sh
# Makes the RDMA devices rdma0 ... and their network, in the guest: guest_setup.sh DEVICES
#
#     rdma0 on r0 (10.0.0.1) ==== p0 |
#     rdma1 on r1 (10.0.0.2) ==== p1 | br0
#     ...                            |
#
# Each device is on a veth of its own, whose peer is a port of the bridge. All is in one network
# namespace, for rdma_rxe works in the first only. Linux would deliver packets between two of its
# own addresses at once; the rules below send them over the bridge all the same.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
devices=$1

network() {
    echo "link set lo up"
    echo "link add br0 mtu 9000 type bridge forward_delay 0 mcast_snooping 0"
    echo "link set br0 up"
    number=0
    while [ "$number" -lt "$devices" ]; do
        host $number "10.0.0.$((number + 1))" $((100 + number))
        number=$((number + 1))
    done
    # The local table, which knows all addresses as the guest's own, is now the last that counts.
    echo "rule add pref 30 lookup local"
    echo "rule del pref 0"
}

# host NUMBER ADDRESS TABLE: the commands for one device's interface and routes.
host() {
    echo "link add r$1 mtu 9000 type veth peer name p$1 mtu 9000"
    echo "link set p$1 master br0 up"
    echo "address add $2/24 dev r$1 noprefixroute"
    echo "link set r$1 up"
    # What arrives is for the guest itself; what the address sends to itself stays inside; all
    # else that it sends leaves by its own interface.
    echo "rule add pref 10 iif r$1 lookup local"
    echo "rule add pref 15 from $2 to $2 lookup local"
    echo "rule add pref 20 from $2 lookup $3"
    echo "route add 10.0.0.0/24 dev r$1 src $2 table $3"
}

rdma_links() {
    number=0
    while [ "$number" -lt "$devices" ]; do
        echo "link add rdma$number type rxe netdev r$number"
        number=$((number + 1))
    done
}

# A packet that waits for a busy processor is not to be lost: the README's limits say why.
echo 100000 >/proc/sys/net/core/netdev_max_backlog
# Each interface answers for its own address alone, and takes packets from the guest's others.
cd /proc/sys/net/ipv4/conf
echo 1 >all/accept_local
echo 1 >all/arp_ignore
echo 2 >all/arp_announce
echo 0 >all/rp_filter
echo 0 >default/rp_filter
# The address that IPv6 makes by itself is used at once, not after a second's search for doubles.
echo 0 >../../ipv6/conf/default/accept_dad

network | ip -batch -
rdma_links | rdma -b -
