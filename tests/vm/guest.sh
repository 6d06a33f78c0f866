#!/bin/busybox sh
# PID 1 of the virtual machine: the host's files with a tmpfs on top, then pytest, then power off.
# It runs twice: from the initramfs, and (argument "inside") with the host's files as its root.
b=/bin/busybox
if [ "$1" != inside ]; then
  $b mkdir -p /proc /sys /host /top /new
  $b mount -t proc proc /proc
  for module in $($b cat /boot-modules); do $b modprobe "$module"; done
  $b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host
  $b mount -t tmpfs top /top
  $b mkdir -p /top/upper /top/work
  $b mount -t overlay -o lowerdir=/host,upperdir=/top/upper,workdir=/top/work root /new
  # The kernel asks /sbin/modprobe for what it lacks: busybox with the modules from here.
  $b mkdir -p /new/lib/modules /new/sbin
  $b mv /lib/modules/* /new/lib/modules/
  $b rm -f /new/sbin/modprobe
  printf '#!/bin/busybox sh\nexec /bin/busybox modprobe "$@"\n' >/new/sbin/modprobe
  $b chmod 755 /new/sbin/modprobe
  $b cp /command.sh /new/kubewire-vm-command
  $b cp /init /new/kubewire-vm-init
  $b umount /proc
  exec $b switch_root /new /kubewire-vm-init inside
fi
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b mkdir -p /dev/shm /dev/pts
for folder in /dev/shm /run; do $b mount -t tmpfs -o mode=1777 tmpfs $folder; done
$b mount -t devpts devpts /dev/pts
exec </dev/null >/dev/console 2>&1
# The rest comes by itself, but tests ask whether these are there.
$b modprobe ip_vs
$b modprobe wireguard
$b ifconfig lo 127.0.0.1 up
/bin/sh -e /kubewire-vm-command
# The last line of the console tells the host.
$b echo "kubewire-vm-status=$?"
$b poweroff -f
