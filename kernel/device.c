// SPDX-License-Identifier: GPL-2.0
/* /dev/agentmem: mappings, files that are lent, and the start and the end of the module. */
#include <linux/anon_inodes.h>
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

static const struct file_operations am_lent_fops;

static vm_fault_t am_fault(struct vm_fault *vmf)
{
	struct am_smu *smu = vmf->vma->vm_private_data;
	struct file *file = vmf->vma->vm_file;
	struct am_agent *agent = file->f_op == &am_lent_fops ? NULL : file->private_data;
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

/* An SMU or a part of it, from the place on that the mapping begins at. Takes over a reference. */
static int am_map(struct am_smu *smu, struct vm_area_struct *vma)
{
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

/* Of what the agent holds, at the place that is its id. */
static int am_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct am_smu *smu;

	if (vma->vm_flags & (VM_WRITE | VM_EXEC))
		return -EACCES;
	smu = am_held(file->private_data, vma->vm_pgoff);
	return smu ? am_map(smu, vma) : -ENOENT;
}

/* ---- lent files ---- */

/* Of the one SMU that there is, which begins at 0 here, and at its own place with all others. */
static int am_lent_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct am_smu *smu = file->private_data;

	if (vma->vm_flags & (VM_WRITE | VM_EXEC))
		return -EACCES;
	if (vma->vm_pgoff >= smu->nr_pages)
		return -EINVAL;
	vma->vm_pgoff += smu->id;
	refcount_inc(&smu->refs);
	return am_map(smu, vma);
}

static int am_lent_release(struct inode *inode, struct file *file)
{
	struct am_smu *smu = file->private_data;

	am_add(smu->user, AM_LEASES, -1);
	am_put(smu);
	return 0;
}

/* Without ioctls: who has it has nothing of the agent that lent it. */
static const struct file_operations am_lent_fops = {
	.owner = THIS_MODULE,
	.release = am_lent_release,
	.mmap = am_lent_mmap,
	.llseek = noop_llseek,
};

/* Takes over a reference, whatever comes of it. */
struct file *am_lend(struct am_smu *smu)
{
	int error = am_charge(smu->user, AM_LEASES, 1);
	struct file *file;

	if (error) {
		am_put(smu);
		return ERR_PTR(error);
	}
	file = anon_inode_getfile("[agentmem]", &am_lent_fops, smu, O_RDONLY);
	if (IS_ERR(file)) {
		am_add(smu->user, AM_LEASES, -1);
		am_put(smu);
		return file;
	}
	file->f_mapping = am_space->i_mapping;
	return file;
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
