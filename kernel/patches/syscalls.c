// SPDX-License-Identifier: GPL-2.0
/* The four calls as system calls, of a kernel that agentmem is built into. */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/syscalls.h>

#include "agentmem.h"

/* With its size, a structure can grow. This kernel knows one size of each, and no flags. */
static long am_syscall(int fd, unsigned int call, void __user *args, size_t bytes,
		       unsigned int flags)
{
	struct fd agent;
	long result = -EINVAL;

	if (flags || bytes != _IOC_SIZE(call))
		return -EINVAL;
	agent = fdget(fd);
	if (!fd_file(agent))
		return -EBADF;
	if (fd_file(agent)->f_op->unlocked_ioctl == am_ioctl)
		result = am_ioctl(fd_file(agent), call, (unsigned long)args);
	fdput(agent);
	return result;
}

SYSCALL_DEFINE4(agentmem_alloc, int, agent, void __user *, args, size_t, bytes,
		unsigned int, flags)
{
	return am_syscall(agent, AGENTMEM_IOC_ALLOC, args, bytes, flags);
}

SYSCALL_DEFINE4(agentmem_share, int, agent, void __user *, args, size_t, bytes,
		unsigned int, flags)
{
	return am_syscall(agent, AGENTMEM_IOC_SHARE, args, bytes, flags);
}

SYSCALL_DEFINE4(agentmem_advise, int, agent, void __user *, args, size_t, bytes,
		unsigned int, flags)
{
	return am_syscall(agent, AGENTMEM_IOC_ADVISE, args, bytes, flags);
}

SYSCALL_DEFINE4(agentmem_stats, int, agent, void __user *, args, size_t, bytes,
		unsigned int, flags)
{
	return am_syscall(agent, AGENTMEM_IOC_STATS, args, bytes, flags);
}
