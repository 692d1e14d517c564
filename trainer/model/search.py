"""Search stub until the real one comes."""
from typing import NamedTuple
import numpy as np
from trainer.jit import njit
from trainer.model.simhash import popcount
class Found(NamedTuple):
    positions: np.ndarray
    counts: np.ndarray
@njit
def _ham(q,keys,first,start,stop,k,radii,pos,cnt):
    W=q.shape[1]; T=0
    for b in range(start.size): T=max(T,stop[b]-start[b])
    d=np.empty(T,np.int32); hist=np.zeros(64*W+2,np.int32)
    for b in range(start.size):
        n=stop[b]-start[b]
        for i in range(first[b],first[b+1]):
            hist[:]=0
            for j in range(n):
                s=0
                for w in range(W): s+=popcount(q[i,w]^keys[start[b]+j,w])
                d[j]=s; hist[s]+=1
            for r in range(radii.size):
                c=0
                for x in range(radii[r]+1): c+=hist[x]
                cnt[i,r]=c
            t=0; c=0
            while t<64*W and c+hist[t]<=k:
                c+=hist[t]; t+=1
            ties=k-c
            m=min(n,k)
            for j in range(n-1,-1,-1):
                if m==0: break
                if d[j]<t or (d[j]==t and ties>0):
                    if d[j]==t: ties-=1
                    m-=1
                    pos[i,m]=start[b]+j
def hamming_top_k(queries,keys,first,start,stop,k,mask=None,radii=()):
    pos=np.full((len(queries),k),-1,np.int32); cnt=np.zeros((len(queries),len(radii)),np.int32)
    _ham(queries,keys,first,start,stop,k,np.array(radii,np.int64),pos,cnt)
    return Found(pos,cnt)
def _gen(score,first,start,stop,k,N,radii,cosf):
    pos=np.full((N,k),-1,np.int32); cnt=np.zeros((N,len(radii)),np.int32)
    for b in range(len(start)):
        s,e=start[b],stop[b]
        if e<=s: continue
        S=score(b,slice(first[b],first[b+1]),slice(s,e))
        C=cosf(b,slice(first[b],first[b+1]),slice(s,e))
        for r,x in enumerate(radii): cnt[first[b]:first[b+1],r]=(C>=x).sum(1)
        m=min(k,e-s)
        o=np.sort(np.argsort(-S[:,::-1],1,kind="stable")[:,:m],1)
        o=(e-s-1)-o[:,::-1]
        pos[first[b]:first[b+1],:m]=o+s
    return Found(pos,cnt)
def inner_top_k(queries,keys,first,start,stop,k,mask=None,radii=()):
    qn=queries/np.maximum(1e-9,np.linalg.norm(queries,axis=1,keepdims=True)); kn=keys/np.maximum(1e-9,np.linalg.norm(keys,axis=1,keepdims=True))
    return _gen(lambda b,c,s: queries[c]@keys[s].T,first,start,stop,k,len(queries),radii,lambda b,c,s: qn[c]@kn[s].T)
def category_top_k(queries,keys,first,start,stop,k,mask=None):
    f=_gen(lambda b,c,s:(queries[c][:,None]==keys[s][None]).astype(np.float32),first,start,stop,k,len(queries),(0.5,),lambda b,c,s:(queries[c][:,None]==keys[s][None]).astype(np.float32))
    for i in range(len(queries)):
        m=f.counts[i,0]
        if m<k:
            p=f.positions[i]; p=p[p>=0]; p=p[keys[p]==queries[i]]; f.positions[i]=-1; f.positions[i,:len(p)]=p
    return f
