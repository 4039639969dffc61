#!/bin/busybox sh
# Process 1 of the guest, in its initramfs. It lays a writable layer over the host's files, has the
# devices made, runs the command, and switches the guest off.
#
# The folder /job is shared with tests/rdma/vm. Given: guest_setup.sh, devices (how many), shares
# (a path on each line) and command (a script). Taken back: output and status.

/bin/busybox mkdir -p /proc /sys /dev /sbin /usr/bin /usr/sbin /host /layer /new /job
/bin/busybox --install -s
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

die() {
    echo "guest_init.sh: $1"
    poweroff -f
}

# mount_9p TAG FOLDER OPTIONS: mounts what the host shares.
mount_9p() {
    mkdir -p "$2"
    mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$3" "$1" "$2" || die "no $1"
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
# What the kernel does not load by itself when it is needed. That a name is unknown does not
# matter: the module is a part of the kernel then.
for module in virtio_pci 9pnet_virtio 9p overlay ib_umad rdma_ucm; do
    modprobe "$module"
done
mkdir /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr

# Nothing changes the host's files during a run that the guest would have to see at once.
mount_9p host /host ro,cache=loose,noatime
mount_9p job /job cache=none
mount -t tmpfs -o size=75% layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work new /new ||
    die "no overlay"
mount -t tmpfs run /new/run
for folder in proc sys dev; do
    mount -o rbind "/$folder" "/new/$folder"
done
mkdir -p /new/run/job /new/lib/modules
mount -o bind /job /new/run/job
mount -o bind /lib/modules /new/lib/modules
number=0
while read -r folder; do
    # This cache mode lets programs map the files, and keeps nothing else.
    mount_9p "share$number" "/new$folder" cache=mmap
    number=$((number + 1))
done </job/shares
hostname guest
echo "127.0.0.1 localhost guest" >>/new/etc/hosts

chroot /new /bin/sh /run/job/guest_setup.sh "$(cat /job/devices)" || die "guest_setup.sh failed"

# The command writes into a pipe, as programs expect, for a shared file behaves otherwise where
# it is opened again, as /dev/stderr is.
mkfifo /output
cat /output >/job/output &
copier=$!
chroot /new /bin/sh /run/job/command >/output 2>&1 </dev/null
echo $? >/job/status
# What the command left running may hold the pipe open.
for process in /proc/[1-9]*; do
    process=${process#/proc/}
    [ "$process" -eq 1 ] || [ "$process" -eq "$copier" ] || kill -9 "$process" 2>/dev/null
done
wait "$copier"
sync
poweroff -f
