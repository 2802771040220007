#!/usr/bin/env python3
"""The peer of `Lancet.Bench step`: a LoRA step of a SmolLM2-135M-shaped Llama, written plainly in PyTorch, fp32 on the processor.

usage: smollm_step.py [THREADS]     needs PyTorch (Debian: python3-torch)
Same shapes, same adapters (r = 16 on the seven projections), AdamW on the adapters, clipping at 1, T = 1024, every token a label.
"""
import resource, statistics, sys, time
import torch
import torch.nn.functional as F

T, V, H, I, L, NH, NKV, D, R, S = 1024, 49152, 576, 1536, 30, 9, 3, 64, 16, 2.0
torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
torch.manual_seed(0)

class Lora(torch.nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(o, i) * 0.02, requires_grad=False)
        self.a = torch.nn.Parameter((torch.rand(R, i) * 2 - 1) / i ** 0.5)
        self.b = torch.nn.Parameter(torch.zeros(o, R))
    def forward(self, x):
        return F.linear(x, self.w) + F.linear(F.linear(x, self.a), self.b) * S

class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(H), requires_grad=False)
    def forward(self, x):
        return self.w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))

inv = 1.0 / (100000 ** (torch.arange(0, D, 2).float() / D))
angle = torch.outer(torch.arange(T).float(), inv)
cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)

def rotate(x):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin

causal = torch.full((T, T), float("-inf")).triu(1)

def attention(q, k, v):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return torch.softmax(q @ k.transpose(-1, -2) * D ** -0.5 + causal, -1) @ v

class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.n1, self.n2 = Norm(), Norm()
        self.q, self.k, self.v, self.o = Lora(H, NH * D), Lora(H, NKV * D), Lora(H, NKV * D), Lora(NH * D, H)
        self.gate, self.up, self.down = Lora(H, I), Lora(H, I), Lora(I, H)
    def forward(self, x):
        n = self.n1(x)
        q, k, v = (f(n).view(1, T, -1, D).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = rotate(q), rotate(k)
        k, v = k.repeat_interleave(NH // NKV, 1), v.repeat_interleave(NH // NKV, 1)
        a = attention(q, k, v)
        x = x + self.o(a.transpose(1, 2).reshape(T, -1))
        n = self.n2(x)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.e = torch.nn.Parameter(torch.randn(V, H) * 0.02, requires_grad=False)
        self.layers = torch.nn.ModuleList(Layer() for _ in range(L))
        self.n = Norm()
    def forward(self, ids):
        x = F.embedding(ids, self.e)
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.n(x), self.e)

model = Model()
adapters = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(adapters, lr=1e-4, weight_decay=0.01)
ids = torch.randint(0, V, (T,))
times = []
for step in range(2 + 5):
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    loss = F.cross_entropy(model(ids)[:-1].float(), ids[1:])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(adapters, 1.0)
    optimizer.step()
    if step >= 2:
        times.append(time.perf_counter() - start)
    print(f"step {step + 1}: {time.perf_counter() - start:.3f} s, loss {loss.item():.4f}", file=sys.stderr)
median = statistics.median(times)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"pytorch {torch.__version__} {torch.get_num_threads()} threads: {median:.3f} s a step (spread {min(times):.3f} to {max(times):.3f}), {T / median:.0f} tokens/s; process peak {peak:.0f} MiB")
