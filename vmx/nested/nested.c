#include "vmx/nested/nested.h"
#include "vmx/event.h"
bool nested_init(struct vcpu *vcpu){(void)vcpu;return true;}
#define S(n) enum run_result nested_##n(struct vcpu *v){vcpu_inject_ud(v);return RUN_RESUME;}
S(vmcall) S(vmclear) S(vmlaunch) S(vmptrld) S(vmptrst) S(vmread) S(vmresume) S(vmwrite) S(vmxoff) S(vmxon) S(invept) S(invvpid)
enum run_result nested_exit(struct vcpu *v, u32 r){(void)v;(void)r;return RUN_STOPPED;}
bool nested_deliver_events(struct vcpu *v){(void)v;return false;}
void nested_arm_timer(struct vcpu *v,u64 n){(void)v;(void)n;}
bool nested_cr0_ok(struct vcpu *v,u64 n){(void)v;(void)n;return true;}
bool nested_cr4_ok(struct vcpu *v,u64 n){(void)v;(void)n;return true;}
void nested_tsc_offset_changed(struct vcpu *v){vmwrite(F(TSC_OFFSET),v->tsc_offset);}
void *nested_l2_page(struct vcpu *v, ngpa_t p, bool w){(void)v;(void)p;(void)w;return 0;}
bool nested_l2_translate(struct vcpu *v, ngpa_t n, gpa_t *g){(void)v;(void)n;(void)g;return false;}
