#!/bin/busybox sh
# PID 1 of the virtual machine: the host's files with a tmpfs on top, then pytest, then power off.
b=/bin/busybox
$b mkdir -p /proc /sys /dev /host /top /new
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b cat /proc/uptime; for module in $($b cat /boot-modules); do $b modprobe "$module"; done
$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host
$b cat /proc/uptime; $b mount -t tmpfs top /top
$b mkdir -p /top/upper /top/work
$b mount -t overlay -o lowerdir=/host,upperdir=/top/upper,workdir=/top/work root /new
# The kernel asks /sbin/modprobe for what it lacks: busybox with the modules from here.
$b mkdir -p /new/lib/modules /new/sbin
$b cp -r /lib/modules/* /new/lib/modules/
$b rm -f /new/sbin/modprobe
printf '#!/bin/busybox sh\nexec /bin/busybox modprobe "$@"\n' >/new/sbin/modprobe
$b chmod 755 /new/sbin/modprobe
$b cp /command.sh /new/kubewire-vm-command.sh
$b mount -t proc proc /new/proc
$b mount -t sysfs sys /new/sys
$b mount -t devtmpfs dev /new/dev
$b mkdir -p /new/dev/shm /new/dev/pts
for folder in dev/shm tmp run; do $b mount -t tmpfs -o mode=1777 tmpfs "/new/$folder"; done
$b mount -t devpts devpts /new/dev/pts
$b ifconfig lo 127.0.0.1 up
$b cat /proc/uptime; $b chroot /new /bin/sh -e /kubewire-vm-command.sh </dev/null
status=$?
# The last line of the console tells the host.
$b echo "kubewire-vm-status=$status"
$b poweroff -f
