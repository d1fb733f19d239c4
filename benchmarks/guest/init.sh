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
mount -t overlay -o lowerdir=/machine,upperdir=/changes/upper,workdir=/changes/work overlay /guest

mount -t proc proc /guest/proc
mount -t sysfs sysfs /guest/sys
mount -t cgroup2 cgroup2 /guest/sys/fs/cgroup
mount -t devtmpfs devtmpfs /guest/dev
mkdir -p /guest/dev/pts /guest/dev/shm
mount -t devpts devpts /guest/dev/pts
mount -t tmpfs -o mode=1777 tmpfs /guest/dev/shm
mount -t tmpfs -o mode=755 tmpfs /guest/run
mkdir /guest/run/report
mount -t 9p -o trans=virtio,version=9p2000.L report /guest/run/report
cp /bin/busybox /guest/run/
ip link set lo up
umount /proc

echo 'the guest is up'
exec switch_root /guest /bin/sh -c '
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
    cd "$1" && "$2" -m benchmarks.guest.inside /run/report "$3" "$4"
    echo "the guest ends"
    /run/busybox poweroff -f
' sh "$CHECKOUT" "$PYTHON" "$COUNT" "$SEED"
