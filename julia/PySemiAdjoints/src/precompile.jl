# Compiles, once per installation, the adjoints of the usual methods.

using PrecompileTools: @setup_workload, @compile_workload

@setup_workload begin
    PySemi.HAS_ADJOINTS[] = true
    @compile_workload begin
        PySemi.exercise_adjoints(Float32)
        PySemi.exercise_adjoints(Float64)
    end
end
