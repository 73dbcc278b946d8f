#include "vmx/vmcs.h"

#include "drivers/cpu.h"
#include "ept/pool.h"
#include "libc/x86.h"
#include "vmx/cpu.h"

#define VMCS_SHADOW BIT(31)

bool vmcs_create(struct vmcs *v, struct pool *pool, bool shadow)
{
    u32 *page = pool_page(pool);
    if (!page)
        return false;
    page[0] = (u32)((vmx.caps.basic & BASIC_REVISION) | (shadow ? VMCS_SHADOW : 0));
    *v = (struct vmcs){.hpa = ptr_phys(page)};
    vmxop_clear(&v->hpa);
    return true;
}

void vmcs_clear(struct vmcs *v)
{
    vmxop_clear(&v->hpa);
}

void vmcs_destroy(struct vmcs *v, struct pool *pool)
{
    vmcs_clear(v);
    pool_return(pool, phys_ptr(v->hpa));
}

extern const u8 vmx_exit[]; // vmx/enter.asm

void vmcs_init_host(const struct vmx_host *host)
{
    struct cpu *cpu = this_cpu();
    vmwrite(F(HOST_CR0), read_cr0());
    vmwrite(F(HOST_CR3), host->cr3);
    vmwrite(F(HOST_CR4), read_cr4());
    vmwrite(F(HOST_CS_SELECTOR), SEL_CODE);
    vmwrite(F(HOST_SS_SELECTOR), SEL_DATA);
    vmwrite(F(HOST_DS_SELECTOR), SEL_DATA);
    vmwrite(F(HOST_ES_SELECTOR), SEL_DATA);
    vmwrite(F(HOST_FS_SELECTOR), 0);
    vmwrite(F(HOST_GS_SELECTOR), 0);
    vmwrite(F(HOST_TR_SELECTOR), SEL_TSS);
    vmwrite(F(HOST_FS_BASE), 0);
    vmwrite(F(HOST_IDTR_BASE), host->idt_base);
    vmwrite(F(HOST_SYSENTER_CS), 0);
    vmwrite(F(HOST_SYSENTER_ESP), 0);
    vmwrite(F(HOST_SYSENTER_EIP), 0);
    vmwrite(F(HOST_GS_BASE), (u64)cpu);
    vmwrite(F(HOST_TR_BASE), (u64)&cpu->tss);
    vmwrite(F(HOST_GDTR_BASE), (u64)cpu->gdt);
    vmwrite(F(HOST_RSP), cpu->exit_stack - sizeof(u64));
    vmwrite(F(HOST_RIP), (u64)vmx_exit);
    vmwrite(F(HOST_EFER), rdmsr(0xc0000080));
    vmwrite(F(HOST_PAT), rdmsr(0x277));
}
