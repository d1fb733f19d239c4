# The first program of the guest. Two lines above it say where the checkout and its Python are.
#
# The guest sees the files of the machine that it runs on, below an overlay that is kept in RAM: it
# may change all of them, and nothing of that is ever written. It has no network but loopback.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
for module in /modules/*; do insmod "$module" || echo "no $module"; done

mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,noxattr,ro machine /machine
mount -t tmpfs -o mode=755 tmpfs /changes
mkdir /changes/upper /changes/work
mount -t overlay -o lowerdir=/machine,upperdir=/changes/upper,workdir=/changes/work overlay /root

mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
mount -t devtmpfs devtmpfs /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t tmpfs -o mode=1777 tmpfs /root/dev/shm
mount -t tmpfs -o mode=755 tmpfs /root/run
mkdir /root/run/report
mount -t 9p -o trans=virtio,version=9p2000.L report /root/run/report
cp /bin/busybox /root/run/
ip link set lo up
umount /proc

echo 'the guest is up'
exec switch_root /root /bin/sh -c '
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
    cd "$1" && "$2" -m benchmarks.guest.inside /run/report "$3" "$4"
    echo "the guest ends"
    /run/busybox poweroff -f
' sh "$CHECKOUT" "$PYTHON" "$COUNT" "$SEED"
