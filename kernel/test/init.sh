# The first program of the guest; lines above it give ROUNDS and SEED. What it says on the console
# is KTAP, with what the kernel has to say between it.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for module in /modules/*; do insmod "$module" || echo "# no $module"; done

number=0
# NAME COMMAND...: one result.
try() {
    local name=$1
    shift
    number=$((number + 1))
    echo "# $name"
    if "$@"; then echo "ok $number $name"; else echo "not ok $number $name"; fi
}

# With what the kernel keeps for the next time given back, as far as it does that when asked.
available_kib() {
    for time in 1 2; do
        echo 3 > /proc/sys/vm/drop_caches
        for cache in /sys/kernel/slab/*/shrink; do echo 1 > "$cache"; done
        echo 1 > /proc/sys/vm/compact_memory
        sleep 1
    done
    awk '/^MemAvailable/ { print $2 }' /proc/meminfo
}

load() { insmod /agentmem.ko "$@"; }

refused() { ! load codec=nothing 2>/dev/null && [ ! -e /dev/agentmem ]; }

# What tests of the loaded module leave behind belongs to the kernel, and is the same each time.
unload() {
    rmmod agentmem && [ ! -e /dev/agentmem ] && [ ! -e /proc/agent_stats ] || return 1
    ! grep -q am_smu /proc/slabinfo
}

# Whole cycles: what others cost than the first is lost. The figure itself goes up and down by
# some MiB; the cycles put fifty times as much. What is lost is lost each time.
nothing_lost() {
    local before after
    load && /lifetime > /dev/null && unload || return 1
    for look in 1 2 3; do
        before=$(available_kib)
        for cycle in 1 2; do
            load && /lifetime > /dev/null && unload || return 1
        done
        after=$(available_kib)
        echo "  # MemAvailable before and after: $before and $after KiB"
        [ $((before - after)) -lt 4096 ] && return 0
    done
    return 1
}

# Built and installed as users do it: the same source, so one look is enough.
of_dkms() { insmod /dkms.ko && /calls && unload; }

with_codec() { load "codec=$1" && /memory && unload; }

# Two looks: what was freed a moment ago may still be found by the first.
no_leak() {
    for look in 1 2; do
        sleep 6
        echo scan > /sys/kernel/debug/kmemleak
    done
    ! grep . /sys/kernel/debug/kmemleak
}

quiet() { ! dmesg | grep -E '\bBUG[ :]|WARNING:|Oops|general protection|possible .*deadlock|refcount_t:|corruption'; }

finish() {
    try 'the kernel complained of nothing' quiet
    echo "1..$number"
    poweroff -f
}

echo "KTAP version 1"
echo "# Linux $(uname -r), nodes $(cat /sys/devices/system/node/online)"
for tier in /sys/devices/virtual/memory_tiering/memory_tier*; do
    echo "# $(basename "$tier"): nodes $(cat "$tier/nodelist")"
done
# A guest that has this runs it, and nothing else.
[ -e /engine.sh ] && . /engine.sh
# A kernel that has it built in (../patches) cannot load, unload or choose.
if [ -e /dev/agentmem ]; then
    for program in syscalls calls compat memory; do try "$program, built in" "/$program"; done
    try 'random calls, built in' /fuzz "$ROUNDS" "$SEED"
    finish
fi
try 'an unknown codec is refused' refused
try 'load' load
try 'calls' /calls
try 'memory' /memory
try 'lifetime' /lifetime
try 'callers of 32 bits' /compat
try 'random calls' /fuzz "$ROUNDS" "$SEED"
try 'short memory' /pressure
if [ -b /dev/vda ]; then
    try 'transcripts' /corpus /dev/vda 4096 65536
else
    number=$((number + 1))
    echo "ok $number transcripts # SKIP AGENTMEM_CORPUS is not set"
fi
try 'unload' unload
try 'nothing is lost by loading, use and unloading' nothing_lost
try 'codec deflate' with_codec deflate
try 'codec lz4' with_codec lz4
try 'the module that DKMS installs' of_dkms
if [ -e /sys/kernel/debug/kmemleak ]; then
    try 'kmemleak found nothing' no_leak
else
    number=$((number + 1))
    echo "ok $number kmemleak found nothing # SKIP this kernel has none"
fi
finish
