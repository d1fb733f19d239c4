// SPDX-License-Identifier: GPL-2.0
/* /dev/agentmem: mappings, and the start and the end of the module. */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mount.h>
#include <linux/pseudo_fs.h>

#include "agentmem.h"

#define CREATE_TRACE_POINTS
#include "agentmem_trace.h"

struct inode *am_space;

/* ---- mappings ---- */

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
static void vm_flags_mod(struct vm_area_struct *vma, vm_flags_t set, vm_flags_t clear)
{
	vma->vm_flags |= set;
	vma->vm_flags &= ~clear;
}
#endif

static vm_fault_t am_fault(struct vm_fault *vmf)
{
	struct am_smu *smu = vmf->vma->vm_private_data;
	struct am_agent *agent = vmf->vma->vm_file->private_data;
	u64 index = vmf->pgoff - smu->id;
	struct page *page;

	if (index >= smu->nr_pages)
		return VM_FAULT_SIGBUS;
	page = am_page_get(smu, index, agent);
	if (IS_ERR(page))
		return page == ERR_PTR(-ENOMEM) ? VM_FAULT_OOM : VM_FAULT_SIGBUS;
	vmf->page = page;
	return 0;
}

static void am_vm_open(struct vm_area_struct *vma)
{
	struct am_smu *smu = vma->vm_private_data;

	refcount_inc(&smu->refs);
	atomic_inc(&smu->mappings);
}

static void am_vm_close(struct vm_area_struct *vma)
{
	struct am_smu *smu = vma->vm_private_data;

	atomic_dec(&smu->mappings);
	am_put(smu);
}

static const struct vm_operations_struct am_vm_ops = {
	.open = am_vm_open,
	.close = am_vm_close,
	.fault = am_fault,
};

/* Of an SMU that the agent holds, at the place that is its id, or of a part of it. */
static int am_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct am_smu *smu;

	if (vma->vm_flags & (VM_WRITE | VM_EXEC))
		return -EACCES;
	smu = am_held(file->private_data, vma->vm_pgoff);
	if (!smu)
		return -ENOENT;
	if (vma->vm_pgoff - smu->id + vma_pages(vma) > smu->nr_pages) {
		am_put(smu);
		return -EINVAL;
	}
	atomic_inc(&smu->mappings);
	vm_flags_mod(vma, VM_DONTEXPAND | VM_DONTDUMP, VM_MAYWRITE | VM_MAYEXEC);
	vma->vm_private_data = smu;
	vma->vm_ops = &am_vm_ops;
	return 0;
}

/* ---- device ---- */

static const struct file_operations am_fops = {
	.owner = THIS_MODULE,
	.open = am_open,
	.release = am_release,
	.unlocked_ioctl = am_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = am_mmap,
	.llseek = noop_llseek,
};

static struct miscdevice am_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "agentmem",
	.fops = &am_fops,
	.mode = 0660,
};

/*
 * A file system of one inode: device nodes of one number can have different inodes,
 * and mappings through all of them have to be found in one place. Without an
 * owner, because the module itself would hold itself.
 */
static struct vfsmount *am_mount;

static int am_fs_init_context(struct fs_context *context)
{
	return init_pseudo(context, 0x61676d6d) ? 0 : -ENOMEM;
}

static struct file_system_type am_fs = {
	.name = "agentmem",
	.init_fs_context = am_fs_init_context,
	.kill_sb = kill_anon_super,
};

static int am_space_start(void)
{
	am_mount = kern_mount(&am_fs);
	if (IS_ERR(am_mount))
		return PTR_ERR(am_mount);
	am_space = alloc_anon_inode(am_mount->mnt_sb);
	if (!IS_ERR(am_space))
		return 0;
	kern_unmount(am_mount);
	return PTR_ERR(am_space);
}

static void am_space_stop(void)
{
	iput(am_space);
	kern_unmount(am_mount);
}

static int am_device_start(void)
{
	return misc_register(&am_device);
}

static void am_device_stop(void)
{
	misc_deregister(&am_device);
}

/* In this order; stopped in the other one. */
static const struct am_part {
	int (*start)(void);
	void (*stop)(void);
} am_parts[] = {
	{ am_users_start, am_users_stop },
	{ am_codecs_start, am_codecs_stop },
	{ am_smus_start, am_smus_stop },
	{ am_reclaim_start, am_reclaim_stop },
	{ am_nodes_start, am_nodes_stop },
	{ am_space_start, am_space_stop },
	{ am_stats_start, am_stats_stop },
	{ am_device_start, am_device_stop },
};

static void am_stop(unsigned int parts)
{
	while (parts)
		am_parts[--parts].stop();
}

static int __init am_init(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(am_parts); i++) {
		int error = am_parts[i].start();

		if (error) {
			am_stop(i);
			return error;
		}
	}
	return 0;
}

/* Open files and mappings hold the module, so there are none. */
static void __exit am_exit(void)
{
	am_stop(ARRAY_SIZE(am_parts));
}

module_init(am_init);
module_exit(am_exit);
MODULE_LICENSE("GPL");
MODULE_AUTHOR("agentmem maintainers");
MODULE_DESCRIPTION("Memory of AI agents: shared by content, compressed, placed by importance");
